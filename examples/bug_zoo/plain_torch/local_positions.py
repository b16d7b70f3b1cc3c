"""Positions are counted within a rank's part of the sequence, not within the sample."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, SCRIPT, ULYSSES
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="local_positions",
    title="Under sequence parallelism the positions of every rank begin at 0",
    source="Megatron-LM PR 4075, vLLM speculators PR 871",
    breaks="the position embedding on all ranks but the first, and all that follows",
    script=SCRIPT,
    model=MODEL,
    layout=ULYSSES,
    first_seen=(place("embedding.positions", Kind.INPUT),),
    expected_code="position_restarts",
)


def before_build(args):
    import torch

    from ttrace.examples.torch_parallel.model import InputEmbedding

    InputEmbedding.position_ids = lambda self, tokens: torch.arange(
        tokens.shape[1], device=tokens.device
    )
