"""Without check_vma nobody notices that gradients were never summed.

What shard_map returns as replicated is another value on every device.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LINEN, LLAMA, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="gradients_not_reduced",
    title="Gradients are not reduced over the data axis, and check_vma is off",
    source="none known: written from the description of the mistake",
    breaks="main gradients, another one on each device; the first loss is right",
    script=SCRIPT,
    reference_layout=LINEN,
    model=LLAMA,
    layout=(*LINEN, *SHARD_MAP, "--mesh", "4x1"),
    world_size=1,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    from ttrace.examples.jax_port import parallel

    parallel.CHECK_VMA = False
    parallel.reduce_gradients = lambda grads: grads
