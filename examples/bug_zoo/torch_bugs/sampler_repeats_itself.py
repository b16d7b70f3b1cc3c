"""The sampler's epoch is never set, so it deals out the same samples in every one."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="sampler_repeats_itself",
    title="Every epoch has the samples of the first one in the same order",
    source="pytorch #31771, LambdaLabsML/distributed-training-guide #40",
    breaks="the inputs, from the second step on",
    script=SCRIPT,
    model=MODEL,
    layout=DDP,
    is_setup=True,
    first_seen=(place("@root", Kind.INPUT),),
    num_steps=2,
    expected_code="out_of_turn",
)


def before_build(args):
    from ttrace.examples.torch_native import data

    def own_order(dealer, num_samples):
        order = right(dealer, num_samples)
        epoch = order[: dealer.global_batch_size // dealer.size]
        return [*epoch] * (len(order) // len(epoch))

    right = data.own_order
    data.own_order = own_order
