"""State of the model that one run updates, and the other leaves as it was."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

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
        computed: Outputs of the module in that run, of the same names, that agree with
            those of the other run: what it computed anew, and nobody kept.
    """

    updated: tuple[TensorId, ...]
    still_in: Side
    counts: bool | None
    computed: tuple[TensorId, ...] = ()


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
        and (_name(verdict.id) in _NAMES or verdict.id.module == ROOT_MODULE)
    ]
    agreed = {
        replace(verdict.id, kind=Kind.UPDATED_BUFFER, microbatch=None): verdict.id
        for verdict in verdicts
        if verdict.status is Status.PASSED and verdict.id.kind is Kind.OUTPUT
    }
    first = min((id_.step for id_ in failed), default=0)
    by_module: dict[str, list[TensorId]] = {}
    for id_ in failed:
        if id_.step == first:
            by_module.setdefault(id_.module, []).append(id_)
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    found = []
    # Of plain JAX, some of the state may be returned as it was, and some not.
    in_root = [(id_,) for id_ in by_module.pop(ROOT_MODULE, ())]
    groups = [*map(tuple, by_module.values()), *in_root]
    for ids in groups[:_MAX_MODULES]:
        moves = {side: [_moves(id_, run) for id_ in ids] for side, run in runs.items()}
        for side, other in (
            (Side.CANDIDATE, Side.REFERENCE),
            (Side.REFERENCE, Side.CANDIDATE),
        ):
            if set(moves[side]) == {False} and set(moves[other]) == {True}:
                counter = replace(ids[0], slot=_counter_of(ids[0]))
                found.append(
                    StillStatistics(
                        updated=ids,
                        still_in=side,
                        counts=_moves(counter, runs[side]),
                        computed=tuple(agreed[id_] for id_ in ids if id_ in agreed),
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
