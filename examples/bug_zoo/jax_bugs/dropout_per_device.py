"""All devices draw with one key: their samples get the masks of the first device."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import DROPOUT, GPT2, LINEN, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="dropout_per_device",
    title="Random numbers depend on how the batch is sharded",
    source="jax #40232, tt-metal #55947",
    breaks="what dropout leaves of the samples of all devices but the first",
    script=SCRIPT,
    reference_layout=(*LINEN, *DROPOUT),
    model=GPT2,
    layout=(*LINEN, *SHARD_MAP, *DROPOUT, "--mesh", "4x1"),
    world_size=1,
    first_seen=(place("h_0", Kind.INPUT),),
    expected_code="dropout",
)


def before_build(args):
    from ttrace.examples.jax_port import parallel

    parallel.Parallel.first_sample = lambda self, num_local: 0
