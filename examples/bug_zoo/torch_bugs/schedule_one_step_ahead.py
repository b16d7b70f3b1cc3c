"""The learning rate's schedule is advanced before the update."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="schedule_one_step_ahead",
    title="The first learning rate of the schedule is skipped",
    source="NVIDIA-NeMo/Megatron-Bridge #5399, pytorch-gradual-warmup-lr PR 11",
    breaks="the learning rate, and with it all updates",
    script=SCRIPT,
    model=(*MODEL, "--warmup", "4"),
    layout=DDP,
    first_seen=(place("@root", Kind.LEARNING_RATE),),
    expected_code="scaled_update",
)


def before_build(args):
    from ttrace.examples.torch_native import optimization

    def update(optimizers, schedulers, scaler):
        for scheduler in schedulers:
            scheduler.step()
        right(optimizers, (), scaler)

    right = optimization.update
    optimization.update = update
