"""With a loss per token the router's z-loss depends on tensor parallelism.

Nothing is patched: the router divides the loss by the number of tensor-parallel ranks,
as each has a part of the tokens, and multiplies it by the number of its own tokens,
which are as many times fewer. Live in megatron-core 0.16.1; the clean twin has another
layout.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, EXPERTS, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="z_loss_per_token",
    title="Live in megatron-core 0.16.1: with a loss per token the router's z-loss is "
    "divided by TP twice",
    source="Megatron-LM PR 5047, #1652",
    breaks="router gradients, and all gradients below",
    model=(*EXPERTS, *"--moe-z-loss-coeff 0.1 --calculate-per-token-loss".split()),
    layout=(*TP2_SP, *EP2),
    clean_layout=EP2,
    first_seen=(
        place("decoder.layers.1.mlp.router", Kind.GRAD_INPUT, Kind.PARAM_GRAD),
        place("decoder.layers.1.mlp", Kind.GRAD_INPUT),
        place("decoder.layers.1.pre_mlp_layernorm", Kind.GRAD_OUTPUT),
    ),
    expected_code="backward_inside",
)
