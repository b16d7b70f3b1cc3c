"""Without check_vma, psum is differentiated to psum.

The gradient of a sum over devices, which each of them has already, is summed again.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="grad_of_psum",
    title="The gradient of a psum is summed over the devices once more",
    source="jax #3970",
    breaks="gradients before the last row-parallel linear, by the model axis",
    script=SCRIPT,
    reference_layout=LINEN,
    model=GPT2,
    layout=(*LINEN, *SHARD_MAP, "--mesh", "1x2"),
    world_size=1,
    first_seen=(place("h_1.mlp.c_proj", Kind.GRAD_INPUT, Kind.PARAM_GRAD),),
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.jax_port import parallel

    parallel.CHECK_VMA = False
