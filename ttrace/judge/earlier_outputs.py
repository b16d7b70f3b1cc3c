"""What a micro-batch computed before a tensor, and agrees."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.judge.verdict import Status, TensorVerdict


def outputs_before(last: TensorId, verdicts: Sequence[TensorVerdict]) -> list[TensorId]:
    """Outputs of that micro-batch that agree, the nearest first."""
    found: list[TensorId] = []
    for verdict in verdicts:
        id_ = verdict.id
        if id_ == last:
            break
        if (
            id_.kind is Kind.OUTPUT
            and id_.pass_ is Pass.FORWARD
            and (id_.step, id_.microbatch) == (last.step, last.microbatch)
            and verdict.status is Status.PASSED
        ):
            found.append(id_)
    return found[::-1]
