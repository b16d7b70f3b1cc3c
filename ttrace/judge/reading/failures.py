"""Tensors that failed by their values, and those of them that are read to explain."""

from collections.abc import Callable, Iterable
from typing import TypeGuard

from ttrace.ir.tensor_id import TensorId
from ttrace.judge.reading.values import MAX_ELEMENTS
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

_MAX_READ = 16
"""Tensors that are read, of those that failed in a step."""


def failed_by_values(verdict: TensorVerdict | None) -> TypeGuard[TensorVerdict]:
    """Whether there is a verdict that the difference exceeds the tolerance."""
    return (
        verdict is not None
        and verdict.status is Status.FAILED
        and verdict.cause is Cause.ERROR
    )


def first_failed(
    verdicts: Iterable[TensorVerdict], is_wanted: Callable[[TensorId], bool]
) -> list[TensorVerdict]:
    """The first few that are small enough to be read, of the first step with any.

    Args:
        verdicts: On all tensors.
        is_wanted: Of which tensors.
    """
    return _first_step(verdicts, is_wanted)[:_MAX_READ]


def examined_text(
    verdicts: Iterable[TensorVerdict], is_wanted: Callable[[TensorId], bool]
) -> str:
    """`` (of 35 that failed in that step, 16 were examined)``; empty if all were.

    For sentences that give the number of those that something explains.

    Args:
        verdicts: On all tensors.
        is_wanted: As in ``first_failed``.
    """
    number = len(_first_step(verdicts, is_wanted))
    if number <= _MAX_READ:
        return ""
    return f" (of {number} that failed in that step, {_MAX_READ} were examined)"


def _first_step(
    verdicts: Iterable[TensorVerdict], is_wanted: Callable[[TensorId], bool]
) -> list[TensorVerdict]:
    failed = [
        verdict
        for verdict in verdicts
        if is_wanted(verdict.id)
        and failed_by_values(verdict)
        and verdict.result is not None
        and verdict.result.stats.count <= MAX_ELEMENTS
    ]
    first = min((verdict.id.step for verdict in failed), default=0)
    return [verdict for verdict in failed if verdict.id.step == first]
