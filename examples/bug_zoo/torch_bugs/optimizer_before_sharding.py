"""The optimizer is made before FSDP2 replaces the parameters it is given."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.recipe_options import FSDP2, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="optimizer_before_sharding",
    title="The optimizer has the parameters from before sharding",
    source="accelerate #3256, pytorch #149205",
    breaks="what the optimizer is given: no gradient, so that nothing is updated",
    script=SCRIPT,
    model=(),
    layout=FSDP2,
    first_seen=(place("*", Kind.MAIN_GRAD, Kind.UPDATED_PARAM),),
    diagnosis="no_gradient",
)


def before_build(args):
    from ttrace.examples.torch_recipe import building, optimization

    def shard(model, args, place):
        (optimizer,) = make_optimizers(model, args)
        optimization.make_optimizers = lambda model, args: [optimizer]
        right(model, args, place)

    make_optimizers, right = optimization.make_optimizers, building.shard
    building.shard = shard
