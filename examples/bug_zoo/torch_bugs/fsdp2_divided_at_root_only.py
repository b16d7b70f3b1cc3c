"""FSDP2's divide factor is set on the root, and does not reach the layers.

The loss is over the tokens of all ranks, so gradients should be summed. The root's own
parameters are; those of the layers are still averaged.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="fsdp2_divided_at_root_only",
    title="The gradient divide factor is set on the root module only",
    source="torchtitan PR 1551 (which modules have a divide factor)",
    breaks="gradients of embedding, last norm and head against those of the layers",
    script=SCRIPT,
    model=MODEL,
    layout=FSDP2,
    first_seen=(
        place("embed", Kind.MAIN_GRAD),
        place("norm", Kind.MAIN_GRAD),
        place("head", Kind.MAIN_GRAD),
    ),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.torch_native import data_parallel

    def shard(model, *args):
        right(model, *args)
        model.set_force_sum_reduction_for_comms(True)  # gloo has no other
        model.set_gradient_divide_factor(1.0)

    right = data_parallel.shard
    data_parallel.shard = shard
