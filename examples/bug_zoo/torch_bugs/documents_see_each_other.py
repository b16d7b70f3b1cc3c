"""Packed documents attend to each other: the mask is that of one long document."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="documents_see_each_other",
    title="The mask of packed documents is dropped",
    source="nanoVLM PR 204, alex-hh/profam #495",
    breaks="the attention of all documents of a sample but the first",
    script=SCRIPT,
    model=(*MODEL, "--documents"),
    layout=FSDP2,
    first_seen=(
        place("layers.0", Kind.INPUT),
        place("layers.0.attention*", Kind.INPUT),
        place("layers.0.attention.core", Kind.OUTPUT),
    ),
    expected_code="mask_differs",
)


def before_build(args):
    from ttrace.examples.torch_native import llama

    right = llama.visible_keys
    llama.visible_keys = lambda documents: right(documents * 0)
