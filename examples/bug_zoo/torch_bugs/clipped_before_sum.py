"""Every rank clips its own gradients, and the clipped ones are summed."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import CLIP, SCRIPT, SUM
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="clipped_before_sum",
    title="Gradients are clipped before they are reduced",
    source="mindspore-lab/mindcv #603, tensorflow PR 21824",
    breaks="what is clipped: each rank's own gradients, with its own norm",
    script=SCRIPT,
    model=CLIP,
    layout=SUM,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    from ttrace.examples.torch_native import loop, optimization

    def finish_gradients(training, parameters):
        optimization.clip(
            parameters, training.optimizers, training.scaler, args.max_grad_norm
        )
        loop.sum_gradients(parameters, training.place)

    loop.finish_gradients = finish_gradients
