"""shard_map sums gradients of replicated parameters by itself, the step once more.

With check_vma, the gradient of a value that all devices share is what they all add to.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LLAMA, NNX, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="summed_twice",
    title="Gradients that shard_map has summed are summed again",
    source="jax #36886",
    breaks="gradients of all parameters, by the number of data-parallel devices",
    script=SCRIPT,
    reference_layout=NNX,
    model=LLAMA,
    layout=(*NNX, *SHARD_MAP, "--mesh", "4x1"),
    world_size=1,
    first_seen=(place("*", Kind.PARAM_GRAD, Kind.MAIN_GRAD),),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.jax_port import parallel

    parallel.vary_over_data = lambda params: params
