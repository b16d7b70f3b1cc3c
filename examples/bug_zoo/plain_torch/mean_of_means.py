"""Every micro-batch has the same weight, however many of its tokens count.

The loss of the step is the mean over micro-batches of their means, not the mean over
tokens: tokens of short samples weigh more.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import DATA, SCRIPT, UNEVEN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mean_of_means",
    title="Losses are normalised per micro-batch, although token counts differ",
    source="torchtitan #1842, PR 2206; torchtune PR 1875",
    breaks="loss and all gradients, by another factor in each micro-batch",
    script=SCRIPT,
    model=UNEVEN,
    layout=DATA,
    first_seen=(
        place("@root", Kind.LOSS),
        place("@root", Kind.GRAD_OUTPUT),
        place("head", Kind.GRAD_OUTPUT),
    ),
    expected_code="loss_weights",
)


def before_build(args):
    from ttrace.examples.torch_parallel import loop
    from ttrace.examples.torch_parallel.data import IGNORED

    num_microbatches = args.global_batch_size // args.micro_batch_size

    def objective(logits, labels, num_tokens, place):
        in_microbatch = (labels != IGNORED).sum()
        return summed(logits, labels, in_microbatch * num_microbatches, place)

    summed = loop.objective
    loop.objective = objective
