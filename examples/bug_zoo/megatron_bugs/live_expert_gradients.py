"""Experts without tensor parallelism are reduced over data parallelism.

Nothing is patched: megatron-core 0.16.1 takes experts for ordinary parameters where
both their parallel sizes are 1, whatever the tensor-parallel size. Every rank of a
tensor-parallel group then holds all experts and trains them on its own tokens.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, ETP1, EXPERTS, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="live_expert_gradients",
    title="Live in megatron-core 0.16.1: experts with ETP=1 and EP=1 are reduced over "
    "the wrong group",
    source="Megatron-LM PR 5916",
    breaks="main gradients of the experts; their copies differ",
    model=EXPERTS,
    layout=(*TP2_SP, *ETP1),
    clean_layout=(*TP2_SP, *EP2),
    first_seen=(
        place(
            "decoder.layers.*.mlp.experts.*",
            Kind.MAIN_GRAD,
        ),
    ),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)
