"""Which rows of two runs are the same ones, but for rounding; from a few sums of each.

A row is folded into a few sums of its elements under signs drawn once. Distances of
rows are, up to a factor near 1, those of these sums (a count sketch: Charikar, Chen
and Farach-Colton, 2002), so that rows are read once. Rows near each other are found on
a grid, without trying all pairs.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_WIDTH = 24
"""Sums that a row of floating-point numbers is folded into."""

_GRID_DIMS = 3

_SAME = 1e-5
"""Relative distance of rows within one run that are taken for the same row."""

_RADII = (1e-3, 5e-2)
"""Relative distances within which the same row is looked for in the other run: near
first; far for runs of low precision."""

_CLEAR = 4.0
"""Times the distance of a row's nearest one, that the next nearest must be away."""

_MOST_PAIRS = 64
"""Pairs of rows that are looked at, for each row; more are too alike to be told."""

_OF_ZERO = -1e3
"""Stands for the logarithm of the norm of a row of zeros."""

UNKNOWN = -1
"""The class of a row that is none, or not clearly one, of the reference's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowClasses:
    """Numbers of rows: equal numbers for the same row.

    Attributes:
        reference: int64, ``[rows of the reference]``.
        candidate: int64, ``[rows of the candidate]``; ``UNKNOWN`` where it is not
            known which row it is.
    """

    reference: np.ndarray
    candidate: np.ndarray


def sketch(rows: np.ndarray, *, is_exact: bool) -> np.ndarray:
    """Folds rows.

    Args:
        rows: ``[rows, elements]``.
        is_exact: They are integers in both runs, and are the same if all are equal.

    Returns:
        float64 ``[rows, sums]``; where exact, uint64 ``[rows, 1]``.
    """
    num_rows, length = rows.shape
    if is_exact:
        weights = _generator(length).integers(1 << 62, size=length, dtype=np.uint64)
        values = np.ascontiguousarray(rows).astype(np.int64).view(np.uint64)
        return (values * (2 * weights + 1)).sum(1, dtype=np.uint64).reshape(-1, 1)
    signs = _generator(length).integers(2, size=length, dtype=np.int8) * 2 - 1
    padded = np.zeros((num_rows, -(-length // _WIDTH) * _WIDTH))
    padded[:, :length] = rows * signs
    return padded.reshape(num_rows, -1, _WIDTH).sum(1)


def _generator(length: int) -> np.random.Generator:
    return np.random.default_rng(length)


def classify(
    sketches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> RowClasses:
    """Tells the rows of two runs apart.

    Args:
        sketches: Of one or several tensors, that of the reference and that of the
            candidate of each: rows are the same if they are so in all of them.
    """
    found = [
        _of_integers(*pair) if pair[0].dtype == np.uint64 else _of_floats(*pair)
        for pair in sketches
    ]
    if len(found) == 1:
        return found[0]
    reference = np.stack([one.reference for one in found], 1)
    candidate = np.stack([one.candidate for one in found], 1)
    both = np.concatenate([reference, candidate])
    numbers = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    of_candidate = numbers[len(reference) :].copy()
    of_candidate[(candidate == UNKNOWN).any(1)] = UNKNOWN
    return _known(numbers[: len(reference)], of_candidate)


def _known(reference: np.ndarray, candidate: np.ndarray) -> RowClasses:
    is_known = np.isin(candidate, reference)
    return RowClasses(
        reference=reference, candidate=np.where(is_known, candidate, UNKNOWN)
    )


def _of_integers(reference: np.ndarray, candidate: np.ndarray) -> RowClasses:
    both = np.concatenate([reference[:, 0], candidate[:, 0]])
    numbers = np.unique(both, return_inverse=True)[1].reshape(-1)
    return _known(numbers[: len(reference)], numbers[len(reference) :])


def _of_floats(reference: np.ndarray, candidate: np.ndarray) -> RowClasses:
    points, of_reference = _distinct(reference)
    others, of_candidate = _distinct(candidate)
    classes = np.arange(len(points))
    for ours, theirs, _ in _near(points, points, _SAME):
        np.minimum.at(classes, ours, theirs)
    found = np.full(len(others), UNKNOWN)
    for radius in _RADII:
        (left,) = np.nonzero(found == UNKNOWN)
        found[left] = _nearest(points, others[left], classes, radius)
    return RowClasses(reference=classes[of_reference], candidate=found[of_candidate])


def _distinct(sketches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points whose distances are relative ones of rows, each once; and which is whose.

    Direction, behind the logarithm of the norm.
    """
    norms = np.linalg.norm(sketches, axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.where(norms > 0, np.log(norms), _OF_ZERO)
        points = np.concatenate([sizes, sketches / np.where(norms > 0, norms, 1)], 1)
    is_number = np.isfinite(points).all(1)
    points[~is_number] = np.inf
    points, numbers = np.unique(points, axis=0, return_inverse=True)
    return points, numbers.reshape(-1)


def _nearest(
    points: np.ndarray, others: np.ndarray, classes: np.ndarray, radius: float
) -> np.ndarray:
    """The class of the nearest point; ``UNKNOWN`` where another one is as near."""
    found = np.full(len(others), UNKNOWN)
    near = list(_near(points, others, radius))
    if not near:
        return found
    ours, theirs, distances = (np.concatenate(part) for part in zip(*near, strict=True))
    order = np.lexsort((distances, theirs))
    ours, theirs, distances = classes[ours[order]], theirs[order], distances[order]
    is_first = np.diff(theirs, prepend=-1) > 0
    first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    is_rival = (ours != ours[first]) & (distances <= _CLEAR * distances[first])
    found[theirs[first]] = ours[first]
    found[theirs[is_rival]] = UNKNOWN
    return found


def _near(
    points: np.ndarray, others: np.ndarray, radius: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of points within a distance: number in the one, in the other, distance.

    None where so many are near each other that nothing tells them apart.
    """
    width = 2 * radius
    is_number: np.ndarray = np.asarray(np.isfinite(others).all(1))
    numbers = np.flatnonzero(np.isfinite(points).all(1))
    cells = _cells(np.floor(points[numbers, :_GRID_DIMS] / width))
    order = np.argsort(cells, kind="stable")
    cells, numbers = cells[order], numbers[order]
    given = np.where(is_number[:, None], others[:, :_GRID_DIMS], 0)
    low = np.floor((given - radius) / width)
    high = np.floor((given + radius) / width)
    num_left = _MOST_PAIRS * (len(points) + len(others))
    pairs = []
    for is_high in itertools.product((False, True), repeat=_GRID_DIMS):
        looked_up = _cells(np.where(is_high, high, low))
        start = np.searchsorted(cells, looked_up, "left")
        counts = np.searchsorted(cells, looked_up, "right") - start
        is_again = np.any((low == high) & np.array(is_high), axis=1)
        counts[~is_number | is_again] = 0
        total = int(counts.sum())
        num_left -= total
        if num_left < 0:
            return
        theirs = np.repeat(np.arange(len(others)), counts)
        offsets = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs.append((numbers[np.repeat(start, counts) + offsets], theirs))
    for ours, theirs in pairs:
        distances = np.linalg.norm(points[ours] - others[theirs], axis=1)
        is_near = distances <= radius
        yield ours[is_near], theirs[is_near], distances[is_near]


def _cells(places: np.ndarray) -> np.ndarray:
    """One number for each cell; cells that share one only cost time."""
    whole = places.astype(np.int64)
    return (whole[:, 0] * 1_000_003 + whole[:, 1]) * 1_000_003 + whole[:, 2]


def split(values: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    """Cuts what stands for all rows of a run into its calls."""
    return np.split(values, np.cumsum(lengths)[:-1])
