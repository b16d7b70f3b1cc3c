"""Without sequence parallelism the gradient of MLA's query norm is summed twice.

The norm works on the compressed query, which all tensor-parallel ranks have whole; the
column-parallel linear behind it has summed the gradient already. Megatron then sums
whatever is called ``q_layernorm``, as it must for norms of heads. Live in megatron-core
0.16.1; the rotary key's gradient, another live bug of this layout, is mended in all
runs.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import LATENT, TP2, TP2_SP, WHOLE_DOWN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mla_query_norm_twice",
    title="MLA: without SP the query norm's gradient is TP times too large",
    source="inclusionAI/AReno PR 496",
    breaks="main gradients of the query norms",
    model=(*LATENT, *WHOLE_DOWN, "--qk-layernorm"),
    layout=TP2,
    clean_layout=TP2_SP,
    first_seen=(place("decoder.layers.*.self_attention.q_layernorm", Kind.MAIN_GRAD),),
    common_patch="ttrace.examples.bug_zoo.summed_rotary_key",
    expected_code="scaled",
)
