"""Gradients are cleared before every micro-batch, not before every step.

Only the last micro-batch counts.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="accumulation_cleared",
    title="Accumulated gradients are cleared between micro-batches",
    source="NVIDIA-NeMo/Automodel PR 3530",
    breaks="all main gradients: only the last micro-batch counts",
    model=DENSE,
    layout=TP2,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    expected_code="one_microbatch",
)


def after_wrap(args, config, chunks, optimizer):
    for chunk in chunks:
        chunk.module.register_forward_pre_hook(
            lambda module, inputs, chunk=chunk: chunk.zero_grad_buffer()
        )
