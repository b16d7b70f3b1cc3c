"""Each rank divides by its own tokens, and the ranks' means are averaged."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mean_over_own_tokens",
    title="FSDP2 averages the means of ranks that have different numbers of tokens",
    source="torchtune PR 1875",
    breaks="the loss and all gradients, by another factor on each rank",
    script=SCRIPT,
    model=(*MODEL, "--uneven-lengths"),
    layout=FSDP2,
    first_seen=(place("@root", Kind.LOSS),),
    expected_code="loss_weights",
)


def before_build(args):
    import torch

    from ttrace.examples.torch_native import loop
    from ttrace.examples.torch_native.tasks import IGNORED

    def count_labels(batches, place):
        counts = [(batch["labels"] != IGNORED).sum() for batch in batches]
        return torch.stack(counts).sum() * place.dp_size

    loop.count_labels = count_labels
