"""What averages of parameters were made with: their decay, and before or after steps.

``averaged = decay * averaged before + (1 - decay) * parameter``. A decay is only named
where it explains the values of both runs, and is a figure that somebody may have
written down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.averages import averaged_parameter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.updates import parameter_before
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOST_UNEXPLAINED = 1e-3
"""Of the norm of what an average changes by, that a decay may leave unexplained."""

_MOST_OFF = 1e-2
"""Relative, of ``1 - decay``, that float32 makes of a figure written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """How a run averages.

    Attributes:
        decay: Of what was before; None where it is not known, as the average was a copy
            of the parameter.
        is_early: It takes parameters as they are before the step, and not after it.
    """

    decay: float | None
    is_early: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageFit:
    """How both runs make the averages of a step, which differ.

    Attributes:
        ids: The averages.
        reference: How the reference does.
        candidate: How the candidate does.
    """

    ids: tuple[TensorId, ...]
    reference: Averaging
    candidate: Averaging


def fit_averages(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> AverageFit | None:
    """How both runs average, in the first step in which that differs.

    Of parameters that agree after the step.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
    """
    agreeing = {
        v.id
        for v in verdicts
        if v.id.kind is Kind.UPDATED_PARAM and v.status is Status.PASSED
    }
    failed = first_failed(verdicts, is_average)
    ids = [v.id for v in failed if averaged_parameter(v.id) in agreeing]
    found = [
        (id_, ours, theirs)
        for id_ in ids
        if (theirs := _averaging(id_, reference)) is not None
        and (ours := _averaging(id_, candidate)) is not None
    ]
    pairs = {(theirs, ours) for _, ours, theirs in found}
    if len(pairs) != 1 or 2 * len(found) <= len(ids):
        return None
    ((theirs, ours),) = pairs
    if theirs == ours or (
        theirs.is_early == ours.is_early and None in (theirs.decay, ours.decay)
    ):
        return None
    return AverageFit(
        ids=tuple(id_ for id_, _, _ in found), reference=theirs, candidate=ours
    )


def is_average(id_: TensorId) -> bool:
    """Whether it is one of the tensors of which the first failed ones are read."""
    return averaged_parameter(id_) is not None


def _averaging(id_: TensorId, run: TraceSource) -> Averaging | None:
    """What explains an average; None if nothing does, or more than one way."""
    updated = averaged_parameter(id_)
    assert updated is not None
    record = parameter_before(updated, run.info)
    average, after = values_of(id_, run), values_of(updated, run)
    start = None if record is None else values_of(record.id, run)
    if average is None or after is None or start is None:
        return None
    before = values_of(replace(id_, step=id_.step - 1), run) if id_.step else None
    for parameter, is_early in ((after, False), (start, True)):
        if np.array_equal(average, parameter):
            return Averaging(decay=None, is_early=is_early)
    if before is None:
        before = start  # an average that starts as the parameter does
    found = [
        Averaging(decay=decay, is_early=is_early)
        for parameter, is_early in ((after, False), (start, True))
        if (decay := _decay(average, before, parameter)) is not None
    ]
    return found[0] if len(found) == 1 else None


def _decay(
    average: np.ndarray, before: np.ndarray, parameter: np.ndarray
) -> float | None:
    """The decay of an average of two; None if it is none, or not one of them."""
    whole, share = parameter - before, average - before
    square = float(np.square(whole).sum())
    if not square:
        return None
    taken = float((whole * share).sum()) / square
    rest = float(np.linalg.norm(share - taken * whole))
    # What storing the average rounds is much beside what it changes by.
    rounding = 1e-7 * float(np.linalg.norm(average))
    if rest > max(_MOST_UNEXPLAINED * float(np.linalg.norm(share)), rounding):
        return None
    decay = round(1 - taken, 5)
    is_close = math.isclose(taken, 1 - decay, rel_tol=_MOST_OFF)
    return decay if 0 < decay < 1 and is_close else None
