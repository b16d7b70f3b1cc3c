"""Labels enter shard_map cut over the model axis, tokens over the data axis."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, ON_2X2, SCRIPT, SHARD_MAP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="labels_cut_otherwise",
    title="An input of shard_map has the wrong PartitionSpec",
    source="none known: written from the description of the mistake",
    breaks="loss and gradients: half of the devices have labels of other samples",
    script=SCRIPT,
    reference_layout=LINEN,
    model=GPT2,
    layout=(*LINEN, *SHARD_MAP, *ON_2X2),
    world_size=1,
    first_seen=(place("@root", Kind.LOSS, Kind.GRAD_OUTPUT),),
    expected_code="loss_targets",
)


def before_build(args):
    from jax.sharding import PartitionSpec as P

    from ttrace.examples.jax_port import parallel

    specs = parallel.batch_specs
    parallel.CHECK_VMA = False
    parallel.batch_specs = lambda batch: {**specs(batch), "labels": P("tp")}
