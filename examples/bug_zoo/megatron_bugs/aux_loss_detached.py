"""The load-balancing loss is computed and logged, and its gradient goes nowhere.

What the autograd function that attaches the loss returned was not used.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, EXPERTS
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="aux_loss_detached",
    title="The MoE auxiliary loss is not attached to the graph",
    source="NVIDIA-NeMo/Automodel PR 1412",
    breaks="router gradients, and all gradients below",
    model=(*EXPERTS, "--moe-aux-loss-coeff", "0.1"),
    layout=EP2,
    first_seen=(
        place("decoder.layers.1.mlp.router", Kind.GRAD_INPUT, Kind.PARAM_GRAD),
        place("decoder.layers.1.mlp", Kind.GRAD_INPUT),
        place("decoder.layers.1.pre_mlp_layernorm", Kind.GRAD_OUTPUT),
    ),
    expected_code="backward_inside",
)


def before_build(args):
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    def apply(output, aux_loss):
        return output

    MoEAuxLossAutoScaler.apply = staticmethod(apply)
