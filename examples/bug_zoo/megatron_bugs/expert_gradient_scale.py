"""Gradients of experts are not divided by the number of data-parallel ranks.

With expert parallelism over all data-parallel ranks an expert has one copy, and no sum
to take a mean of; but the losses that its gradients come from are those of all ranks,
each divided by its own number of micro-batches only.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, EXPERTS
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="expert_gradient_scale",
    title="Gradients of experts are not divided by the data-parallel size",
    source="Megatron-LM commit 3373641ff1",
    breaks="main gradients of the experts, twice what they should be",
    model=EXPERTS,
    layout=EP2,
    first_seen=(place("decoder.layers.*.mlp.experts.*", Kind.MAIN_GRAD),),
    diagnosis="scaled",
    expected_code="scaled",
)


def after_wrap(args, config, chunks, optimizer):
    for chunk in chunks:
        for buffer in chunk.expert_parallel_buffers:
            for bucket in buffer.buckets:
                bucket.gradient_scaling_factor = 1.0
