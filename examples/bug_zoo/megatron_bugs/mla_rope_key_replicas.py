"""Without sequence parallelism MLA's replicated down projections drift apart.

All heads use one rotary key, which each tensor-parallel rank expands over its own
heads. Its gradient is a share on every rank, and nothing sums it. Live in megatron-core
0.16.1: under sequence parallelism, as in the clean twin, a reduce-scatter sums it.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import LATENT, TP2, TP2_SP, WHOLE_DOWN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mla_rope_key_replicas",
    title="MLA: without SP the shared rotary key's gradient is not summed over TP",
    source="Megatron-LM PR 6839",
    breaks="gradients of the key and value down projection; its replicas differ",
    model=(*LATENT, *WHOLE_DOWN),
    layout=TP2,
    clean_layout=TP2_SP,
    first_seen=(
        place("decoder.layers.1.self_attention.linear_kv_down_proj", Kind.GRAD_OUTPUT),
    ),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)
