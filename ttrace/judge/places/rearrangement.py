"""Values that are the reference's in another order, or next to it.

Shards that are gathered in the wrong order, heads that are tiled and not repeated, a
reshape that mixes two dims up, positions that begin elsewhere, a kernel that is not
transposed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.reading.diverged_values import DivergedValues

_OF_UPDATES = frozenset({Kind.UPDATED_PARAM, Kind.OPTIMIZER_STATE})
"""What an optimizer makes of values that agree, or does not, in their own places."""

_COUNTED = frozenset({Kind.INPUT, Kind.OUTPUT, Kind.BUFFER})
"""What may be counted from elsewhere."""

_LEAST_DISTINCT = 8
"""Different values: of fewer, many orders are the same."""

_LEAST_SHARED = 0.5
"""Of a dim that is shifted, what is left of it."""

_MOST_SHIFTS = 64
"""Places that a dim is shifted by, at most."""

_PROJECTED = 5.0
"""Times the norm of a difference, that its random projection may be."""

_SAMPLE = 1 << 16
"""Values that are looked at to see whether they are different."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rearrangement:
    """How the values of the reference stand in the candidate.

    Exactly one of the last four says it; none where all that is known is that they are
    the same values, of more than one dim mixed up.

    Attributes:
        id: The tensor.
        shape: Of it.
        offset: What is added to each value of the reference.
        dims: Two dims that are exchanged.
        dim: The dim whose indices stand in another order, or are shifted.
        order: Index of the reference by index of the candidate, ``[length of dim]``.
        shift: How many places further on they stand; the first (or last) ones are new.
    """

    id: TensorId
    shape: tuple[int, ...]
    offset: float | None = None
    dims: tuple[int, int] | None = None
    dim: int | None = None
    order: tuple[int, ...] | None = None
    shift: int | None = None


def find_rearrangement(values: DivergedValues | None) -> Rearrangement | None:
    """Looks whether the candidate has the reference's values elsewhere.

    Args:
        values: Of the first divergence.
    """
    if values is None or values.id.kind in _OF_UPDATES:
        return None
    if _num_distinct(values.theirs) < _LEAST_DISTINCT:
        return None
    id_, shape = values.id, values.theirs.shape
    offset = float(np.median(values.difference))
    if id_.kind in _COUNTED and values.is_explained(values.theirs + offset):
        return Rearrangement(id=id_, shape=shape, offset=offset)
    if not _same_values(values):
        return _shifted(values)
    for first, second in combinations(range(len(shape)), 2):
        if shape[first] == shape[second] > 1:
            exchanged = np.swapaxes(values.theirs, first, second)
            if values.is_explained(exchanged):
                return Rearrangement(id=id_, shape=shape, dims=(first, second))
    for dim in range(len(shape)):
        order = _order_along(dim, values)
        if order is not None:
            return Rearrangement(
                id=id_, shape=shape, dim=dim, order=tuple(order.tolist())
            )
    return Rearrangement(id=id_, shape=shape)


def _same_values(values: DivergedValues) -> bool:
    """Whether both have the same values, wherever.

    To sort makes a difference no larger, so that rounding does not hide it.
    """
    ours, theirs = (np.sort(v, axis=None) for v in (values.ours, values.theirs))
    return float(np.linalg.norm(ours - theirs)) <= values.limit < values.norm


def _order_along(dim: int, values: DivergedValues) -> np.ndarray | None:
    """The order of the reference's slices, ``[length]``; None where that is not all."""
    if values.ours.shape[dim] < 2:
        return None
    ours, theirs = (_projected(v, dim) for v in (values.ours, values.theirs))
    order = np.empty(len(ours), np.int64)
    order[np.argsort(ours, kind="stable")] = np.argsort(theirs, kind="stable")
    ordered = np.take(values.theirs, order, axis=dim)
    return order if values.is_explained(ordered) else None


def _shifted(values: DivergedValues) -> Rearrangement | None:
    projections = [
        (_projected(values.ours, dim), _projected(values.theirs, dim))
        for dim in range(values.ours.ndim)
    ]
    for dim, shift in _shifts(values.ours.shape):
        kept, there = _overlap(*projections[dim], shift)
        if np.linalg.norm(kept - there) > _PROJECTED * values.limit:
            continue
        kept, there = _overlap(
            np.moveaxis(values.ours, dim, 0), np.moveaxis(values.theirs, dim, 0), shift
        )
        if _stays(values, dim, shift):
            continue  # only the rest of it is wrong
        share = math.sqrt(len(kept) / values.ours.shape[dim])
        rest = float(np.linalg.norm(kept - there))
        if rest <= share * values.limit and _num_distinct(there) >= _LEAST_DISTINCT:
            return Rearrangement(
                id=values.id, shape=values.ours.shape, dim=dim, shift=shift
            )
    return None


def _stays(values: DivergedValues, dim: int, shift: int) -> bool:
    """Whether the first ones, which a shift makes new, are the reference's.

    Not of a single one: a shift may repeat what stands at the border.
    """
    if abs(shift) == 1:
        return False
    length = values.ours.shape[dim]
    new = slice(0, shift) if shift > 0 else slice(length + shift, length)
    difference = np.moveaxis(values.difference, dim, 0)[new]
    return float(np.linalg.norm(difference)) <= values.limit


def _shifts(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Dims and places, the nearest first."""
    for places in range(1, _MOST_SHIFTS + 1):
        for dim, length in enumerate(shape):
            if places <= (1 - _LEAST_SHARED) * length:
                yield dim, places
                yield dim, -places


def _overlap(
    ours: np.ndarray, theirs: np.ndarray, shift: int
) -> tuple[np.ndarray, np.ndarray]:
    """What stands in both if the candidate's stands so many places further on."""
    if shift > 0:
        return ours[shift:], theirs[:-shift]
    return ours[:shift], theirs[-shift:]


def _projected(values: np.ndarray, dim: int) -> np.ndarray:
    """One number a slice, ``[length of dim]``: those of slices that agree agree."""
    slices = np.moveaxis(values, dim, 0).reshape(values.shape[dim], -1)
    return slices @ np.random.default_rng(0).standard_normal(slices.shape[1])


def _num_distinct(values: np.ndarray) -> int:
    """Different values in a sample of it."""
    flat = values.reshape(-1)
    return len(np.unique(flat[:: max(1, flat.size // _SAMPLE)]))
