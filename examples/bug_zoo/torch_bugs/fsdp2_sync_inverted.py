"""The switch of FSDP2's gradient synchronization is the wrong way round.

The first micro-batches are reduced and the last one is not: its gradient stays where
the next step finds it.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="fsdp2_sync_inverted",
    title="FSDP2 reduces all micro-batches but the last one",
    source="huggingface/picotron PR 5, accelerate PR 3762",
    breaks="all main gradients: the last micro-batch of each rank is missing",
    script=SCRIPT,
    model=MODEL,
    layout=FSDP2,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    # Of two micro-batches of each rank the first alone is reduced.
    expected_code="one_microbatch",
)


def before_build(args):
    from ttrace.examples.torch_native import loop

    right = loop.gradient_sync
    loop.gradient_sync = lambda model, *, is_last: right(model, is_last=not is_last)
