"""The mean losses of the accumulated micro-batches are added up, not averaged."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import DATA, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="accumulation_not_divided",
    title="The loss is not divided by the number of accumulated micro-batches",
    source="nanoGPT #168, transformers PR 35207",
    breaks="loss and all gradients, by the number of a rank's micro-batches",
    script=SCRIPT,
    model=MODEL,
    layout=DATA,
    first_seen=(
        place("@root", Kind.LOSS),
        place("@root", Kind.GRAD_OUTPUT),
        place("head", Kind.GRAD_OUTPUT),
    ),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.torch_parallel import loop
    from ttrace.examples.torch_parallel.data import IGNORED

    def objective(logits, labels, num_tokens, place):
        in_microbatch = (labels != IGNORED).sum()
        return summed(logits, labels, in_microbatch * place.data_size, place)

    summed = loop.objective
    loop.objective = objective
