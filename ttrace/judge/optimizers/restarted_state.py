"""Whether an optimizer's state starts anew in a step, as after a first one from zero.

A moment holds a share of what it was and a share of the gradient. Where the reference's
does, and the candidate's is the same share of the gradient alone, or its count of steps
begins again, the candidate kept nothing of the step before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_POWERS = {
    "exp_avg": 1,
    "mu": 1,
    "momentum_buffer": 1,
    "trace": 1,
    "exp_avg_sq": 2,
    "nu": 2,
    "square_avg": 2,
}
"""What optimizers keep of gradients, and of which power of them."""

_COUNTS = frozenset({"step", "count"})

_MOST_UNEXPLAINED = 1e-3
"""Of the norm of a moment, that may be left unexplained."""

_LEAST_OF_BEFORE = 1e-2
"""Of the reference's moment, that the one before must make up."""

_LEAST_LIKENESS = 1e-3
"""Relative, of two shares that are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A step whose state holds nothing of the step before.

    Attributes:
        step: Number of the step.
        ids: What was read and is the gradient's share alone.
        counts: The number of steps that the optimizers count in it, of the reference
            and of the candidate; None where it was not recorded, or is no evidence.
    """

    step: int
    ids: tuple[TensorId, ...]
    counts: tuple[float, float] | None = None


def find_restart(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> Restart | None:
    """The first step with failed moments, if all that were read start anew in it.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
    """
    failed = first_failed(verdicts, is_moment)
    step = failed[0].id.step if failed else 0
    if not step:
        return None  # a first one starts anew in any case
    agreeing = {verdict.id for verdict in verdicts if verdict.status is Status.PASSED}
    counts = _counts(step, reference, candidate)
    is_counted_anew = counts is not None and counts[1] == 1 < counts[0]
    read = [
        (verdict.id, found)
        for verdict in failed
        if (found := _is_anew(verdict.id, agreeing, reference, candidate)) is not None
    ]
    if not read:
        return None
    if not all(
        is_alone and (is_counted_anew or is_like) for _, (is_alone, is_like) in read
    ):
        return None
    return Restart(
        step=step,
        ids=tuple(id_ for id_, _ in read),
        counts=counts if is_counted_anew else None,
    )


def is_moment(id_: TensorId) -> bool:
    """Whether it is one of the tensors of which the first failed ones are read."""
    return id_.kind is Kind.OPTIMIZER_STATE and _state(id_) in _POWERS


def _is_anew(
    id_: TensorId,
    agreeing: set[TensorId],
    reference: TraceSource,
    candidate: TraceSource,
) -> tuple[bool, bool] | None:
    """Whether a moment is of the gradient alone, and the reference's share of it.

    None where what is needed was not recorded, or the gradients do not agree.
    """
    slot = (id_.slot or "").rpartition(".")[0]
    given = next(
        (
            found
            for kind in (Kind.CLIPPED_GRAD, Kind.MAIN_GRAD)
            if (found := replace(id_, kind=kind, slot=slot)) in agreeing
        ),
        None,
    )
    if given is None:
        return None
    power = _POWERS[_state(id_)]
    arrays = [
        values_of(wanted, reference)
        for wanted in (id_, replace(id_, step=id_.step - 1), given)
    ]
    ours, own_gradient = values_of(id_, candidate), values_of(given, candidate)
    theirs, before, gradient = arrays
    if theirs is None or before is None or gradient is None:
        return None
    if ours is None or own_gradient is None or not theirs.any():
        return None
    shares = _shares(theirs, before, gradient**power)
    own = _shares(ours, own_gradient**power)
    if shares is None or own is None:
        return (False, False)
    of_before = abs(shares[0]) * float(np.linalg.norm(before))
    is_kept = of_before > _LEAST_OF_BEFORE * float(np.linalg.norm(theirs))
    is_like = math.isclose(own[0], shares[1], rel_tol=_LEAST_LIKENESS)
    return is_kept, is_like


def _shares(values: np.ndarray, *basis: np.ndarray) -> tuple[float, ...] | None:
    """How many times which vectors the values are; None if they are not."""
    norm = float(np.linalg.norm(values))
    matrix = np.stack([each.reshape(-1) for each in basis], axis=1)
    flat = values.reshape(-1)
    factors, *_ = np.linalg.lstsq(matrix, flat, rcond=None)
    rest = float(np.linalg.norm(flat - matrix @ factors))
    if not norm or rest > _MOST_UNEXPLAINED * norm:
        return None
    return tuple(map(float, factors))


def _counts(
    step: int, reference: TraceSource, candidate: TraceSource
) -> tuple[float, float] | None:
    """The first count that both runs recorded in a step, and have otherwise."""
    for id_ in reference.info.tensors:
        is_count = id_.kind is Kind.OPTIMIZER_STATE and _state(id_) in _COUNTS
        if not is_count or id_.step != step or id_ not in candidate.info.tensors:
            continue
        theirs, ours = values_of(id_, reference), values_of(id_, candidate)
        if theirs is None or ours is None or theirs.size != 1 or ours.size != 1:
            continue
        if theirs.item() != ours.item():
            return float(theirs.item()), float(ours.item())
    return None


def _state(id_: TensorId) -> str:
    return (id_.slot or "").rpartition(".")[2]
