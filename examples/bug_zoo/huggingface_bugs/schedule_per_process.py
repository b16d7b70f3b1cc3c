"""Accelerate steps a schedule that it has prepared once for each process.

Live: the schedule is prepared like all else. It is meant for schedules whose steps are
batches of one process, and this one's are the optimizer's.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.huggingface_options import ACCELERATE, DDP, MODEL
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="schedule_per_process",
    title="The learning rate's schedule advances by a step for each process",
    source="accelerate #2926, #2142; transformers PR 24088",
    breaks="the learning rate from the second step on, and with it all updates",
    script=ACCELERATE,
    model=(*MODEL, "--warmup", "4"),
    layout=DDP,
    num_steps=2,
    first_seen=(place("@root", Kind.LEARNING_RATE),),
    expected_code="scaled_update",
)


def before_build(args):
    from ttrace.examples.huggingface import accelerate_train

    right = accelerate_train.make_scheduler
    accelerate_train.make_scheduler = lambda optimizer, warmup, accelerator: (
        accelerator.prepare(right(optimizer, warmup, accelerator))
    )
