"""The average takes the parameters in before the optimizer has updated them."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="average_before_update",
    title="The moving average of the parameters lags behind by a step",
    source="NVIDIA-NeMo/Speech PR 5169 (review), pytorch #155551",
    breaks="the averaged parameters only; training itself is right",
    script=SCRIPT,
    model=(*MODEL, "--ema"),
    layout=DDP,
    first_seen=(place("*", Kind.OPTIMIZER_STATE),),
    expected_code="average_settings",
)


def before_build(args):
    from ttrace.examples.torch_native import loop, optimization

    def finish_gradients(training, parameters):
        right(training, parameters)
        training.average.update_parameters(training.model)

    right = loop.finish_gradients
    loop.finish_gradients = finish_gradients
    optimization.AveragedModel.update_parameters = _once_a_step(
        optimization.AveragedModel.update_parameters
    )


def _once_a_step(update):
    calls = []

    def update_parameters(self, model):
        calls.append(model)
        if len(calls) % 2:  # the first of a step, which is the early one
            update(self, model)

    return update_parameters
