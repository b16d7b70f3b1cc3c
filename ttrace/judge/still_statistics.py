"""Running statistics that one run updates, and the other leaves as they were."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.failures import failed_by_values
from ttrace.judge.values import values_of
from ttrace.judge.verdict import TensorVerdict

_NAMES = frozenset({"running_mean", "running_var", "mean", "var"})
"""Slots of running statistics, of torch and of flax."""

_COUNTER = "num_batches_tracked"
"""What torch counts in training mode only, whatever the momentum is."""

_MAX_MODULES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StillStatistics:
    """A module whose running statistics move in one run only, in a step.

    Attributes:
        updated: Its statistics after the step.
        still_in: The run in which they stay what they were.
        counts: Whether it counts batches there; None where that is not known.
    """

    updated: tuple[TensorId, ...]
    still_in: Side
    counts: bool | None


def find_still_statistics(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> tuple[StillStatistics, ...]:
    """Modules whose statistics failed in the first step in which any did.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    failed = [
        verdict.id
        for verdict in verdicts
        if failed_by_values(verdict)
        and verdict.id.kind is Kind.UPDATED_BUFFER
        and _name(verdict.id) in _NAMES
    ]
    first = min((id_.step for id_ in failed), default=0)
    by_module: dict[str, list[TensorId]] = {}
    for id_ in failed:
        if id_.step == first:
            by_module.setdefault(id_.module, []).append(id_)
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    found = []
    for ids in list(by_module.values())[:_MAX_MODULES]:
        moves = {side: [_moves(id_, run) for id_ in ids] for side, run in runs.items()}
        for side, other in (
            (Side.CANDIDATE, Side.REFERENCE),
            (Side.REFERENCE, Side.CANDIDATE),
        ):
            if set(moves[side]) == {False} and set(moves[other]) == {True}:
                counter = replace(ids[0], slot=_counter_of(ids[0]))
                found.append(
                    StillStatistics(
                        updated=tuple(ids),
                        still_in=side,
                        counts=_moves(counter, runs[side]),
                    )
                )
    return tuple(found)


def _name(id_: TensorId) -> str:
    return (id_.slot or "").rpartition(".")[2]


def _counter_of(id_: TensorId) -> str:
    owner, dot, _ = (id_.slot or "").rpartition(".")
    return f"{owner}{dot}{_COUNTER}"


def _moves(updated: TensorId, run: TraceSource) -> bool | None:
    """Whether a step changes a buffer; None where that was not recorded."""
    if updated.step:
        before = replace(updated, step=updated.step - 1)
    else:
        before = replace(updated, kind=Kind.BUFFER)
    old, new = values_of(before, run), values_of(updated, run)
    if old is None or new is None or old.shape != new.shape:
        return None
    return not np.array_equal(old, new)
