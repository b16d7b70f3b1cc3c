"""The schedule divides gradients by the micro-batches, which the loss was divided by.

Live: ``scale_grads`` is the default of torch's schedules. The loss is that of the whole
step already.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import MODEL, PP, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="pp_scale_grads",
    title="Gradients of a pipeline are divided by the number of micro-batches twice",
    source="torchtitan #1733, PR 1732",
    breaks="all main gradients, by the number of micro-batches",
    script=SCRIPT,
    model=MODEL,
    layout=PP,
    first_seen=(
        place("head", Kind.GRAD_OUTPUT),
        place("@root", Kind.GRAD_OUTPUT),
        place("*", Kind.MAIN_GRAD),
    ),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.torch_native import pipeline

    def make_schedule(*args, averages):
        return right(*args, averages=True)

    right = pipeline.make_schedule
    pipeline.make_schedule = make_schedule
