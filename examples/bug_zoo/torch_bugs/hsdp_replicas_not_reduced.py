"""HSDP's all-reduce over replicas is switched off to accumulate, and never on again."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import HSDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="hsdp_replicas_not_reduced",
    title="Gradients are summed within the shards' groups, not over their replicas",
    source="NVIDIA/cosmos-framework PR 162, Megatron-LM PR 7186",
    breaks="what the optimizer is given: no gradient, so that nothing is updated",
    script=SCRIPT,
    model=MODEL,
    layout=HSDP,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    world_size=4,
    diagnosis="no_gradient",
    expected_code="no_gradient",
)


def before_build(args):
    from ttrace.examples.torch_native import loop

    def gradient_sync(model, *, is_last):
        context = right(model, is_last=is_last)
        model.set_requires_all_reduce(False)
        return context

    right = loop.gradient_sync
    loop.gradient_sync = gradient_sync
