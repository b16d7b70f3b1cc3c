"""The loss is normalised over all ranks, and DistributedDataParallel averages again."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import DATA, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="averaged_twice",
    title="Gradients are divided by the number of data-parallel ranks twice",
    source="torchtitan PR 2323",
    breaks="all gradients, by the data-parallel size; the loss is right",
    script=SCRIPT,
    model=MODEL,
    layout=DATA,
    first_seen=(place("@root", Kind.GRAD_OUTPUT), place("head", Kind.GRAD_OUTPUT)),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.torch_parallel import loop

    loop.backward = lambda loss, place: loss.backward()
