"""Partial products of a row-parallel linear are not summed, and check_vma is off."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LLAMA, NNX, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="partials_not_summed",
    title="The psum behind a row-parallel linear is missing",
    source="openxla/xla #40034 (an all-reduce left out by the partitioner)",
    breaks="the output of the first attention on each device, and all that follows",
    script=SCRIPT,
    reference_layout=NNX,
    model=LLAMA,
    layout=(*NNX, *SHARD_MAP, "--mesh", "1x2"),
    world_size=1,
    first_seen=(place("layers.0.self_attn*", Kind.OUTPUT),),
    expected_code="replicas_differ",
)


def before_build(args):
    from ttrace.examples.jax_port import parallel

    parallel.CHECK_VMA = False
    parallel.reduce_partials = lambda x, axis: x
