"""What a micro-batch computed before a tensor, and agrees."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


def outputs_before(last: TensorId, verdicts: Sequence[TensorVerdict]) -> list[TensorId]:
    """Outputs of that micro-batch that agree, the nearest first."""
    before = activations_before(last, verdicts)
    return [id_ for id_ in before if id_.kind is Kind.OUTPUT]


def activations_before(
    last: TensorId, verdicts: Sequence[TensorVerdict]
) -> list[TensorId]:
    """Outputs, and inputs of its module, that agree, the nearest first."""
    found: list[TensorId] = []
    for verdict in verdicts:
        id_ = verdict.id
        if id_ == last:
            break
        if (
            id_.pass_ is Pass.FORWARD
            and (id_.step, id_.microbatch) == (last.step, last.microbatch)
            and (
                id_.kind is Kind.OUTPUT
                or (id_.kind is Kind.INPUT and id_.module == last.module)
            )
            and verdict.status is Status.PASSED
        ):
            found.append(id_)
    return found[::-1]
