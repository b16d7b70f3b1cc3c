"""The load-balancing loss is not told of context parallelism.

Its scale is that of the main loss, which counts the context-parallel ranks; the
auxiliary loss leaves that factor out.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, EXPERTS
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="cp_aux_loss",
    title="The MoE auxiliary loss lacks the factor of context parallelism",
    source="Megatron-LM #2237",
    breaks="router gradients, and all gradients below",
    model=(*EXPERTS, "--moe-aux-loss-coeff", "0.1"),
    layout=CP2,
    first_seen=(
        place("decoder.layers.1.mlp.router", Kind.GRAD_INPUT, Kind.PARAM_GRAD),
        place("decoder.layers.1.mlp", Kind.GRAD_INPUT),
        place("decoder.layers.1.pre_mlp_layernorm", Kind.GRAD_OUTPUT),
    ),
    expected_code="backward_inside",
)


def before_build(args):
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    set_loss_scale = MoEAuxLossAutoScaler.set_loss_scale

    def set_without_cp(scale):
        set_loss_scale(scale / args.context_parallel_size)

    MoEAuxLossAutoScaler.set_loss_scale = staticmethod(set_without_cp)
