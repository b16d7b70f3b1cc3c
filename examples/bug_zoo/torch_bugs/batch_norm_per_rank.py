"""BatchNorm sees the samples of its own rank only.

Live: no patch, but nobody has asked for norms that are synchronized.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import CNN, DDP, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="batch_norm_per_rank",
    title="BatchNorm is not synchronized over ranks",
    source="NVIDIA/DeepLearningExamples #1178, fundamentalvision/BEVFormer #136",
    breaks="the output of the first BatchNorm, and all that follows",
    script=SCRIPT,
    model=CNN,
    layout=DDP,
    clean_layout=(*DDP, "--sync-batch-norm"),
    first_seen=(place("blocks.0.bn", Kind.OUTPUT),),
    reference_layout=("--micro-batch-size", "4"),
    expected_code="batch_statistics",
)
