"""Gradients are clipped while they are still multiplied by the scale of the loss."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import CLIP, DDP, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="clipped_before_unscaling",
    title="Gradients are clipped before GradScaler has unscaled them",
    source="pytorch/examples #1196, Pytorch-UNet #468",
    breaks="the clipped gradients: nearly nothing is left once they are unscaled",
    script=SCRIPT,
    model=(*CLIP, "--loss-scale", "1024"),
    layout=DDP,
    first_seen=(
        place("*", Kind.CLIPPED_GRAD),  # before it, the loss scale is known
    ),
    diagnosis="scaled_clipping",
    expected_code="scaled_clipping",
)


def before_build(args):
    from ttrace.examples.torch_native import optimization

    optimization.unscale = lambda scaler, optimizers: None
