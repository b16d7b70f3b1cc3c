"""The window of attention is one token longer than the model's.

A window counts the token itself in one convention, and in the other it does not; the
conversion was missing.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import SINKS, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="window_off_by_one",
    title="Sliding-window attention sees one token too many",
    source="NVIDIA-NeMo/Megatron-Bridge PR 2656",
    breaks="attention probabilities, and everything after them",
    model=SINKS,
    layout=TP2,
    first_seen=(
        place(
            "decoder.layers.0.self_attention.core_attention.scale_mask_softmax",
            Kind.OUTPUT,
        ),
    ),
    expected_code="mask_differs",
)


def before_build(args):
    args.window_size += 1
