"""The loss is scaled up by the data-parallel size before backward.

Data parallelism takes the mean over the ranks, so the loss of a rank needs no further
factor. With Adam the loss curve hardly moves.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, DP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="dp_loss_scale",
    title="The loss is multiplied by the data-parallel size before backward",
    source="TTrace, arXiv:2506.09280, bug 4",
    breaks="all gradients, twice what they should be; the loss is right",
    model=DENSE,
    layout=DP2,
    first_seen=(
        place("@root", Kind.GRAD_OUTPUT),
        place("output_layer", Kind.GRAD_OUTPUT, Kind.GRAD_INPUT),
    ),
    diagnosis="scaled",
    paper_row=4,
    expected_code="scaled",
)


def after_wrap(args, config, chunks, optimizer):
    scale_loss = config.grad_scale_func
    config.grad_scale_func = lambda loss: scale_loss(loss) * args.data_parallel_size
