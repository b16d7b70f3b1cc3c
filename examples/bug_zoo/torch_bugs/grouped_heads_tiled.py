"""The heads of keys and values are repeated as a whole, not each beside its copies."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="grouped_heads_tiled",
    title="Grouped-query attention pairs query heads with the wrong keys and values",
    source="apple/axlearn PR 842, onnx PR 7274",
    breaks="the output of the attention's core, and all that follows",
    script=SCRIPT,
    model=MODEL,
    layout=DDP,
    first_seen=(place("layers.0.attention.core", Kind.OUTPUT),),
    expected_code="attention_variant",
)


def before_build(args):
    from ttrace.examples.torch_native import llama

    llama.repeat_heads = lambda tensor, times: tensor.repeat(1, 1, times, 1)
