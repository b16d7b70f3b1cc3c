"""Gradients are summed over the sequence-parallel ranks once too often.

Ranks that have parts of the same samples belong to the data-parallel group too, and the
division by the size of that group, which makes up for it, is always left out.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, SCRIPT, ULYSSES
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="ulysses_gradient_scale",
    title="Gradients under Ulysses are as many times too large as there are ranks",
    source="DeepSpeed #5248",
    breaks="all main gradients, by the sequence-parallel size; the loss is right",
    script=SCRIPT,
    model=MODEL,
    layout=ULYSSES,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.torch_parallel import loop

    def reduce_gradients(model, place):
        reduced(model, place)
        for parameter in model.parameters():
            parameter.grad *= place.size

    reduced = loop.reduce_gradients
    loop.reduce_gradients = reduce_gradients
