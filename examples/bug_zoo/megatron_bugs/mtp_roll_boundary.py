"""Multi-token prediction shifts the tokens of every context-parallel rank on its own.

The last token of a chunk has its successor on another rank; without the exchange it
gets a token of its own chunk.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, PREDICTION
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mtp_roll_boundary",
    title="Multi-token prediction shifts tokens within each context-parallel rank",
    source="AI-Hypercomputer/maxtext PR 4623",
    breaks="the tokens that the additional layers see, and all behind them",
    model=(*PREDICTION, "--calculate-per-token-loss"),
    layout=CP2,
    first_seen=(
        place("embedding", Kind.INPUT),
        place("mtp.layers.0", Kind.OUTPUT),
    ),
    expected_code="confined_error",
)


def before_build(args):
    from megatron.core.transformer import multi_token_prediction

    roll = multi_token_prediction.roll_tensor

    def roll_alone(*tensors, cp_group=None, **options):
        return roll(*tensors, cp_group=None, **options)

    multi_token_prediction.roll_tensor = roll_alone
