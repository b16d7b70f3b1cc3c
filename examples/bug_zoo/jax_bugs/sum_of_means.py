"""Each device divides by its own tokens, as for pmean; the results are summed."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2_EVEN, LINEN, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="sum_of_means",
    title="psum where pmean is due",
    source="goodfire-ai/spd PR 790",
    breaks="loss and all gradients, by the number of data-parallel devices",
    script=SCRIPT,
    reference_layout=LINEN,
    model=GPT2_EVEN,
    layout=(*LINEN, *SHARD_MAP, "--mesh", "4x1"),
    world_size=1,
    first_seen=(place("@root", Kind.LOSS, Kind.GRAD_OUTPUT),),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.jax_port import parallel

    parallel.reduce_count = lambda num_tokens: num_tokens
