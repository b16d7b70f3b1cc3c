"""Whether a tensor differs as dropout makes it: by zeros, and by a factor elsewhere.

Reads an output, or an input that was dropped of outside of any module, of both runs,
and the input of the module where it has the same shape.
"""

from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.dropout import dropout_key, rate_of, stated_rates
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_LEAST_ELEMENTS = 8
"""Values that must be zero in neither run, and values that must be in one."""

_LEAST_SIZE = 0.1
"""What is zero in one run is not small in the other: its median there, over that of
what is zero in neither."""

_MOST_WHOLE = 0.5
"""Of the rows with such places, that consist of them."""

_ROUNDINGS = 8
"""Units in the last place by which values may be off the common factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutMasks:
    """A tensor whose zeros lie elsewhere in both runs, and that is a multiple else.

    Attributes:
        id: The tensor.
        zeros: Shares of it that are zero, in reference and candidate; of what the
            input is not zero in, where that is known.
        factor: The candidate's values are so many times the reference's elsewhere.
        kept: What both runs multiply the input by where they are not zero; None where
            the input is not known, or the output no multiple of it.
        rate: That both runs state of the module, None where they do not, or differ.
        repeated: Equal parts of the first dim that drop at the same places in the
            candidate, and not in the reference; 1 where there are none.
    """

    id: TensorId
    zeros: tuple[float, float]
    factor: float
    kept: tuple[float, float] | None
    rate: str | None
    repeated: int = 1

    @property
    def has_same_factor(self) -> bool:
        """Whether both runs keep the same share, as far as the factor tells."""
        return self.factor == 1.0


def find_dropout_masks(
    verdict: TensorVerdict | None, reference: TraceSource, candidate: TraceSource
) -> DropoutMasks | None:
    """Looks whether a failed output or input differs by what was dropped of it.

    Args:
        verdict: On the tensor.
        reference: The trusted run.
        candidate: The run under test.
    """
    if (
        not failed_by_values(verdict)
        or verdict.id.kind not in (Kind.OUTPUT, Kind.INPUT)
        or verdict.tolerance is None
    ):
        return None
    runs = (reference, candidate)
    if any(verdict.id not in run.info.tensors for run in runs):
        return None  # a recomputation beside a forward
    if any(not _is_float(verdict.id, run) for run in runs):
        return None  # a mask itself
    theirs = values_of(verdict.id, reference)
    ours = values_of(verdict.id, candidate)
    if theirs is None or ours is None or theirs.shape != ours.shape:
        return None
    limit = max(
        _ROUNDINGS * _epsilon(verdict.id, reference, candidate),
        verdict.tolerance.relative_to(float(np.linalg.norm(theirs))),
    )
    kept = (theirs != 0) & (ours != 0)
    one_sided = (theirs != 0) ^ (ours != 0)
    if min(kept.sum(), one_sided.sum()) < _LEAST_ELEMENTS:
        return None
    dropped = np.abs(np.where(theirs != 0, theirs, ours)[one_sided])
    if np.median(dropped) < _LEAST_SIZE * np.median(np.abs(theirs[kept])):
        return None  # what is about zero, as of a ReLU
    rates = _stated(verdict.id.module, reference, candidate)
    if not any(rates) and _lies_in_rows(one_sided):
        return None  # what a mask or a router leaves out is whole rows
    factor = _factor(ours[kept], theirs[kept], limit)
    if factor is None:
        return None
    given = None
    if verdict.id.kind is Kind.OUTPUT:
        given = values_of(replace(verdict.id, kind=Kind.INPUT), reference)
    is_given = np.full(theirs.shape, True)
    of_reference: float | None = None
    of_candidate: float | None = None
    if given is not None and given.shape == theirs.shape and given.any():
        is_given = given != 0
        there = kept & is_given
        of_reference = _factor(theirs[there], given[there], limit)
        of_candidate = _factor(ours[there], given[there], limit)
    return DropoutMasks(
        id=verdict.id,
        zeros=(
            float((theirs[is_given] == 0).mean()),
            float((ours[is_given] == 0).mean()),
        ),
        factor=1.0 if abs(factor - 1) <= limit else factor,
        kept=None
        if of_reference is None or of_candidate is None
        else (of_reference, of_candidate),
        rate=rates[0] if rates[0] == rates[1] else None,
        repeated=_num_repeated(theirs == 0, ours == 0),
    )


def _num_repeated(theirs: np.ndarray, ours: np.ndarray) -> int:
    """Equal parts of the first dim with the same places, in the candidate alone.

    Args:
        theirs: bool, where the reference is zero.
        ours: Likewise, of the candidate.
    """
    length = ours.shape[0]
    for number in (n for n in range(length, 1, -1) if length % n == 0):
        parts, others = (
            places.reshape(number, length // number, *places.shape[1:])
            for places in (ours, theirs)
        )
        if (parts == parts[0]).all() and not (others == others[0]).all():
            return number
    return 1


def _factor(values: np.ndarray, others: np.ndarray, limit: float) -> float | None:
    """What all values are the others times; None if they are no multiple."""
    square = float((others * others).sum())
    if not square:
        return None
    factor = float((values * others).sum()) / square
    rest = float(np.linalg.norm(values - factor * others))
    return factor if factor > 0 and rest <= limit * np.linalg.norm(values) else None


def _is_float(id_: TensorId, run: TraceSource) -> bool:
    return dtype_named(run.info.tensors[id_].shards[0].dtype).epsilon is not None


def _epsilon(id_: TensorId, *runs: TraceSource) -> float:
    return max(
        dtype_named(run.info.tensors[id_].shards[0].dtype).epsilon or 0.0
        for run in runs
    )


def _stated(
    module: str, reference: TraceSource, candidate: TraceSource
) -> tuple[str | None, str | None]:
    """The rates that both runs state of a module that does nothing but drop."""
    key = dropout_key(module)
    first, second = (
        rate_of(key, stated_rates(rank.settings for rank in run.info.ranks))
        for run in (reference, candidate)
    )
    return first, second


def _lies_in_rows(places: np.ndarray) -> bool:
    """Whether most rows along the last dim have all of the places, or none.

    Args:
        places: bool.
    """
    if places.ndim < 2 or places.shape[-1] < 2:
        return False
    rows = places.reshape(-1, places.shape[-1])
    touched = rows[rows.any(axis=1)]
    return bool(touched.all(axis=1).mean() > _MOST_WHOLE)
