"""The accumulated gradient is clipped after every micro-batch, not once."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import CLIP, SCRIPT, SUM
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="clipped_each_microbatch",
    title="Gradients are clipped after each accumulated micro-batch",
    source="accelerate #641",
    breaks="the gradients: what was accumulated so far is scaled down again and again",
    script=SCRIPT,
    model=CLIP,
    layout=SUM,
    first_seen=(
        place("*", Kind.MAIN_GRAD),
        place("*", Kind.CLIPPED_GRAD),
        place("@root", Kind.GRAD_NORM),
    ),
    expected_code="early_clipping",
)


def before_build(args):
    import torch

    from ttrace.examples.torch_native import loop

    def backward(training, loss):
        right(training, loss)
        parameters = training.model.parameters()
        torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)

    right = loop.backward
    loop.backward = backward
