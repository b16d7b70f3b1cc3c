"""There is no distributed sampler: every rank has the samples of the first one."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.recipe_options import DDP, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="ranks_see_the_same_samples",
    title="All ranks train on the same samples",
    source="Parskatt/RoMa #32, yaak-ai/rbyte PR 106",
    breaks="the inputs of all ranks but the first",
    script=SCRIPT,
    model=(),
    layout=DDP,
    is_setup=True,
    first_seen=(place("@root", Kind.INPUT),),
)


def before_build(args):
    import dataclasses

    from ttrace.examples.torch_recipe import data

    def sample_numbers(step, source, place):
        return right(step, source, dataclasses.replace(place, rank=0))

    right = data.sample_numbers
    data.sample_numbers = sample_numbers
