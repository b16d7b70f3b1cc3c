"""pmean of losses per device: tokens of devices with much padding weigh more."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, NNX, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mean_of_device_means",
    title="The loss is the mean over devices of their means",
    source="transformers PR 18458, PR 19494",
    breaks="loss and all gradients, by another factor on each device",
    script=SCRIPT,
    reference_layout=NNX,
    model=GPT2,
    layout=(*NNX, *SHARD_MAP, "--mesh", "4x1"),
    world_size=1,
    first_seen=(place("@root", Kind.LOSS, Kind.GRAD_OUTPUT),),
    expected_code="loss_weights",
)


def before_build(args):
    from ttrace.examples.jax_port import parallel

    num_devices = args.mesh.data
    parallel.reduce_count = lambda num_tokens: num_tokens * num_devices
