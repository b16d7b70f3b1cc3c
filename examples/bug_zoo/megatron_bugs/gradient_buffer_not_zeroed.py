"""Gradient buffers are used again without being zeroed.

The first step is right; from the second on, gradients of all steps before are added.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, DP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="gradient_buffer_not_zeroed",
    title="Gradient buffers keep the gradients of the step before",
    source="Megatron-LM #4609",
    breaks="all main gradients from the second step on",
    model=DENSE,
    layout=DP2,
    num_steps=2,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    expected_code="accumulated_gradient",
)


def after_wrap(args, config, chunks, optimizer):
    for chunk in chunks:
        for buffer in chunk.buffers:
            buffer.reset = lambda: None
