"""FSDP2 sums the gradients in bfloat16, although the model is in float32.

Live: no patch, but another precision policy.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="fsdp2_reduces_in_bf16",
    title="Gradients are reduced in bfloat16",
    source="allenai/OLMo PR 280, torchtune #2267",
    breaks="all main gradients, by their rounding",
    script=SCRIPT,
    model=MODEL,
    layout=(*FSDP2, "--reduce-dtype", "bfloat16"),
    first_seen=(place("*", Kind.MAIN_GRAD),),
    clean_layout=FSDP2,
    expected_code="lower_precision",
)
