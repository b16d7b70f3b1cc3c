"""The gradient of the rotary part of MLA's keys stays a share of one rank's heads.

All heads use one rotary key. Its gradient on a tensor-parallel rank comes from that
rank's heads; gathering the columns of the down projection only cuts it apart on the way
back, and nothing sums it. Live in megatron-core 0.16.1, so there is nothing to plant:
the clean twin has down projections that are whole on every rank.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import LATENT, TP2_SP, WHOLE_DOWN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mla_rope_key_columns",
    title="MLA: the rotary key's gradient is not summed behind column-parallel linears",
    source="Megatron-LM #1699",
    breaks="the last rows of the down projection's gradient, and all gradients below",
    model=LATENT,
    layout=TP2_SP,
    clean_layout=(*TP2_SP, *WHOLE_DOWN),
    first_seen=(
        place("decoder.layers.1.self_attention.linear_kv_down_proj", Kind.GRAD_OUTPUT),
    ),
    expected_code="confined_error",
)
