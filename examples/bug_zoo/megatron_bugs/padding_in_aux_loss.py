"""Padding counts in the load-balancing loss of experts.

The mask that says which tokens are padding does not reach the routers. Nothing of the
forward changes but the auxiliary loss.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, EXPERTS
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="padding_in_aux_loss",
    title="The padding mask does not reach the MoE router",
    source="Megatron-LM #1984, NVIDIA-NeMo/Megatron-Bridge PR 6113",
    breaks="router gradients, and all gradients below",
    model=(*EXPERTS, *"--moe-aux-loss-coeff 0.1 --padding 5".split()),
    layout=EP2,
    first_seen=(
        place("decoder.layers.1.mlp.router", Kind.GRAD_INPUT, Kind.PARAM_GRAD),
        place("decoder.layers.1.mlp", Kind.GRAD_INPUT),
        place("decoder.layers.1.pre_mlp_layernorm", Kind.GRAD_OUTPUT),
    ),
    expected_code="backward_inside",
)


def before_build(args):
    from megatron.core.transformer.moe.moe_layer import MoELayer

    route = MoELayer.route

    def route_unmasked(self, hidden_states, padding_mask=None):
        return route(self, hidden_states)

    MoELayer.route = route_unmasked
