"""BatchNorm sees the samples of its own rank only."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.recipe_options import DDP, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="batch_norm_per_rank",
    title="BatchNorm is not synchronized over ranks",
    source="NVIDIA/DeepLearningExamples #1178, fundamentalvision/BEVFormer #136",
    breaks="the output of the first BatchNorm, and all that follows",
    script=SCRIPT,
    model=("--model", "cnn"),
    layout=DDP,
    first_seen=(place("blocks.0.bn", Kind.OUTPUT),),
    reference_layout=("--micro-batch-size", "4"),
)


def before_build(args):
    from ttrace.examples.torch_recipe import cnn

    cnn.synchronize_norms = lambda model: None
