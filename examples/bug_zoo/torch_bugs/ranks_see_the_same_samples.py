"""There is no distributed sampler: every rank has the samples of the first one."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="ranks_see_the_same_samples",
    title="All ranks train on the same samples",
    source="Parskatt/RoMa #32, yaak-ai/rbyte PR 106",
    breaks="the inputs of all ranks but the first",
    script=SCRIPT,
    model=MODEL,
    layout=DDP,
    is_setup=True,
    first_seen=(place("@root", Kind.INPUT),),
    expected_code="repeated_samples",
)


def before_build(args):
    import dataclasses

    from ttrace.examples.torch_native import data

    def own_order(dealer, num_samples):
        return right(dataclasses.replace(dealer, rank=0), num_samples)

    right = data.own_order
    data.own_order = own_order
