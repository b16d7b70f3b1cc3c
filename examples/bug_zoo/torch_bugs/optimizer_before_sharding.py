"""The optimizer is made before FSDP2 replaces the parameters it is given."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="optimizer_before_sharding",
    title="The optimizer has the parameters from before sharding",
    source="accelerate #3256, pytorch #149205",
    breaks="what the optimizer is given: no gradient, so that nothing is updated",
    script=SCRIPT,
    model=MODEL,
    layout=FSDP2,
    first_seen=(place("*", Kind.MAIN_GRAD, Kind.UPDATED_PARAM),),
    diagnosis="no_gradient",
    expected_code="no_gradient",
)


def before_build(args):
    from ttrace.examples.torch_native import data_parallel, optimization

    def shard(model, *others):
        (optimizer,) = make_optimizers(model, args)
        optimization.make_optimizers = lambda model, args: [optimizer]
        right(model, *others)

    make_optimizers, right = optimization.make_optimizers, data_parallel.shard
    data_parallel.shard = shard
