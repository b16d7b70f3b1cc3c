"""Nobody clears the gradients after an update."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="gradients_never_cleared",
    title="Gradients of earlier steps are added to those of the step",
    source="torchforge PR 71, tt-blacksmith PR 711",
    breaks="all main gradients, from the second step on",
    script=SCRIPT,
    model=MODEL,
    layout=DDP,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    num_steps=2,
    expected_code="accumulated_gradient",
)


def before_build(args):
    from ttrace.examples.torch_native import loop

    loop.clear_gradients = lambda training: None
