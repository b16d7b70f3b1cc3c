"""Positions are counted through a sample, not anew in each of its documents."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="positions_across_documents",
    title="Positions of packed documents do not begin at 0",
    source="nanoVLM #201",
    breaks="the positions that are given to the layers, and what is rotated by them",
    script=SCRIPT,
    model=(*MODEL, "--documents"),
    layout=FSDP2,
    first_seen=(
        place("layers.0", Kind.INPUT),
        place("layers.0.attention*", Kind.INPUT),
    ),
    expected_code="position_restarts",
)


def before_build(args):
    from ttrace.examples.torch_native import llama

    right = llama.positions_in
    llama.positions_in = lambda documents: right(documents * 0)
