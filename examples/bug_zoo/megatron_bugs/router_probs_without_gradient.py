"""Router probabilities are gathered over expert-parallel ranks without their gradient.

The router then learns nothing: the share of its gradient that comes through the weights
of the experts' outputs is lost.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, EXPERTS
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="router_probs_without_gradient",
    title="Router probabilities are gathered without gradient",
    source="Megatron-LM commit b6ce193888",
    breaks="router gradients, and all gradients below",
    model=(*EXPERTS, "--moe-token-dispatcher-type", "allgather"),
    layout=EP2,
    first_seen=(
        # Where the probabilities go in: no gradient of them is asked for there.
        place("decoder.layers.1.mlp.experts.local_experts.*", Kind.GRAD_INPUT),
        place("decoder.layers.1.mlp", Kind.GRAD_INPUT),
        place("decoder.layers.1.mlp.router", Kind.GRAD_OUTPUT, Kind.GRAD_INPUT),
        place("decoder.layers.1.mlp.router", Kind.PARAM_GRAD),
        place("decoder.layers.1.pre_mlp_layernorm", Kind.GRAD_OUTPUT),
    ),
    expected_code="no_gradient",
)


def before_build(args):
    from megatron.core.transformer.moe.token_dispatcher import (
        MoEAllGatherTokenDispatcher,
    )

    token_dispatch = MoEAllGatherTokenDispatcher.token_dispatch

    def dispatch(self, hidden_states, probs):
        return token_dispatch(self, hidden_states, probs.detach())

    MoEAllGatherTokenDispatcher.token_dispatch = dispatch
