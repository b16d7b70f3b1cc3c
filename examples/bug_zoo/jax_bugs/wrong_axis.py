"""Partial products are summed over the data axis: of devices with other samples."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, NNX, ON_2X2, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="wrong_axis",
    title="A psum names the data axis where the model axis is due",
    source="none known: written from the description of the mistake",
    breaks="the output of the first attention, and all that follows",
    script=SCRIPT,
    reference_layout=NNX,
    model=GPT2,
    layout=(*NNX, *SHARD_MAP, *ON_2X2),
    world_size=1,
    first_seen=(place("blocks.0.attention*", Kind.OUTPUT),),
    expected_code="replicas_differ",
)


def before_build(args):
    import jax

    from ttrace.examples.jax_port import parallel

    parallel.CHECK_VMA = False
    parallel.reduce_partials = lambda x, axis: jax.lax.psum(x, parallel.DATA)
