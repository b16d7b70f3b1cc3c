"""Which runs write to a parameter after the optimizer's step."""

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.verdicts.verdict import TensorVerdict


def writers(written: TensorVerdict) -> frozenset[Side]:
    """The runs whose scripts do; another one is shown with what it had before.

    Args:
        written: On a ``written_param`` that was compared.
    """
    assert written.result is not None
    match = written.result.plan.match
    return frozenset(
        side
        for side, record in (
            (Side.REFERENCE, match.reference),
            (Side.CANDIDATE, match.candidate),
        )
        if any(
            shard.id.kind is Kind.WRITTEN_PARAM and shard.id.step == record.id.step
            for shard in record.shards
        )
    )
