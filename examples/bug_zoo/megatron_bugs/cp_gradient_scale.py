"""Gradients are averaged over data-parallel ranks only, not over context parallelism.

Each context-parallel rank divides its loss by its own number of tokens, so the sum over
both kinds of ranks is to be divided by the number of both. The loss of the second step
moves in the sixth digit.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, DENSE
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="cp_gradient_scale",
    title="Gradients are divided by dp where it should be dp x cp",
    source="Megatron-LM #673, #906",
    breaks="all main gradients, twice what they should be",
    model=DENSE,
    layout=CP2,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    diagnosis="scaled",
    paper_row=3,
    expected_code="scaled",
)


def after_wrap(args, config, chunks, optimizer):
    for chunk in chunks:
        for buffer in chunk.buffers:
            for bucket in buffer.buckets:
                bucket.gradient_scaling_factor *= args.context_parallel_size
