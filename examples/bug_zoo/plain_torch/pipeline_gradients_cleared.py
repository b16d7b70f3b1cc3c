"""Setting the pipeline stages up again clears the gradients accumulated so far.

It happens between micro-batches whenever shapes change, so only the last micro-batch
trains the model. The loss is summed elsewhere and looks fine.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, PIPELINE, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="pipeline_gradients_cleared",
    title="Accumulated gradients are cleared between the micro-batches of a pipeline",
    source="NeMo Automodel PR 3530",
    breaks="all main gradients: only the last micro-batch counts",
    script=SCRIPT,
    model=MODEL,
    layout=PIPELINE,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    expected_code="one_microbatch",
)


def before_build(args):
    from ttrace.examples.torch_parallel import pipeline

    def backward(model, part, place):
        model.zero_grad(set_to_none=True)
        run(model, part, place)

    run = pipeline.backward
    pipeline.backward = backward
