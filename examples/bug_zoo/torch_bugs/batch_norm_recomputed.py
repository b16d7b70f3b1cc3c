"""A checkpointed BatchNorm runs twice, and takes each micro-batch in twice.

Live in torch: no patch, but checkpointing. Outputs and gradients are right.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import CNN, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="batch_norm_recomputed",
    title="Running statistics are updated again when activations are recomputed",
    source="pytorch #96136, Tencent/YOLO-Master #262",
    breaks="the running statistics of all BatchNorms; training itself is right",
    script=SCRIPT,
    model=CNN,
    layout=("--checkpoint", "wrapper"),
    first_seen=(place("blocks.*.bn", Kind.UPDATED_BUFFER),),
    clean_layout=(),
    world_size=1,
    expected_code="batch_statistics",
)
