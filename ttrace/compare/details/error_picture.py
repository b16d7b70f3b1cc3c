"""From sums over bins to what is shown: profiles, a map, where the error lies."""

import math
from typing import TypedDict

import numpy as np

from ttrace.compare.details.error_grid import ErrorGrid, coarsened, edges_of
from ttrace.compare.details.shard_borders import (
    find_borders,
    joined_bins,
    ranks_holding,
)
from ttrace.compare.details.tensor_details import (
    MAP_CELLS,
    ErrorMap,
    ErrorPlace,
    Profile,
    ShardBorders,
)
from ttrace.ir.side import Side
from ttrace.ir.trace import TensorRecord

PLACES = ((0.9, 0.25), (0.9999, 0.75))
"""What a place is: it has this share of the squared error at least, in this part of the
indices of a dim at most. Nearly all of it in a few, or all but nothing in more: that
is a place only where the rest agrees."""

_ALIKE = 0.25
"""What a bin has of the squared error of the least one that is needed, and belongs to
the place with it: which of many alike are needed is chance."""

_MAX_RANGES = 4
"""Ranges that are a place; what is spread wider is none."""


class Drawn(TypedDict):
    """Fields of ``TensorDetails``."""

    error_map: ErrorMap | None
    profiles: tuple[Profile, ...]
    borders: tuple[ShardBorders, ...]
    place: ErrorPlace | None


def draw(
    grid: ErrorGrid,
    unit: float,
    reference: TensorRecord,
    candidate: TensorRecord,
    *,
    tolerated: float,
) -> Drawn:
    """Draws the error of a tensor.

    Args:
        grid: The sums.
        unit: What the squared differences are in, over the root mean square of the
            reference.
        reference: The tensor of the reference.
        candidate: That of the candidate.
        tolerated: The sum of squares, as the grid has them, that rounding explains.
    """
    return Drawn(
        error_map=_map(grid, unit),
        profiles=tuple(_profile(grid, unit, dim) for dim in grid.dims),
        borders=(
            *find_borders(reference, Side.REFERENCE, grid.dims),
            *find_borders(candidate, Side.CANDIDATE, grid.dims),
        ),
        place=_place(grid, candidate, tolerated),
    )


def _profile(grid: ErrorGrid, unit: float, dim: int) -> Profile:
    errors = _errors(grid.squares[dim,], grid.counts[dim,], unit)
    return Profile(dim=dim, edges=tuple(grid.edges[dim].tolist()), errors=errors)


def _map(grid: ErrorGrid, unit: float) -> ErrorMap | None:
    if len(grid.dims) < 2:
        return None
    # Of dims along which the error varies alike, those that show more of it.
    chosen = sorted(
        grid.dims,
        key=lambda dim: (_spread(grid, dim), len(grid.edges[dim])),
        reverse=True,
    )[:2]
    dims = (min(chosen), max(chosen))
    squares, counts, edges = grid.squares[dims], grid.counts[dims], []
    for axis, dim in enumerate(dims):
        finer = grid.edges[dim]
        coarser = edges_of(int(finer[-1]), MAP_CELLS)
        squares = coarsened(squares, [finer, coarser], axis)
        counts = coarsened(counts, [finer, coarser], axis)
        edges.append(tuple(coarser.tolist()))
    rows = (_errors(*row, unit) for row in zip(squares, counts, strict=True))
    return ErrorMap(dims=dims, edges=(edges[0], edges[1]), errors=tuple(rows))


def _spread(grid: ErrorGrid, dim: int) -> float:
    """How unlike the bins of a dim are: scatter of their mean squares over the mean."""
    squares, counts = grid.squares[dim,], grid.counts[dim,]
    is_known = (counts > 0) & np.isfinite(squares)
    if not np.isfinite(squares).all():  # where it is not finite, and where it is
        squares, is_known = np.isinf(squares) * counts, counts > 0
    means = squares[is_known] / counts[is_known]
    mean = float(means.mean()) if means.size else 0.0
    return float(means.std()) / mean if mean else 0.0


def _errors(squares: np.ndarray, counts: np.ndarray, unit: float) -> tuple[float, ...]:
    """Root mean squares in each bin, to three digits."""
    found = []
    for square, count in zip(squares.tolist(), counts.tolist(), strict=True):
        if not count:
            found.append(math.nan)
        elif not square:
            found.append(0.0)
        else:
            found.append(float(f"{math.sqrt(square / count) * unit:.3g}"))
    return tuple(found)


def _place(
    grid: ErrorGrid, candidate: TensorRecord, tolerated: float
) -> ErrorPlace | None:
    found = (
        _narrowest(grid, candidate, share, part, most_left)
        for (share, part), most_left in zip(PLACES, (math.inf, tolerated), strict=True)
    )
    return next((place for place in found if place is not None), None)


def _narrowest(
    grid: ErrorGrid,
    candidate: TensorRecord,
    least_share: float,
    largest_part: float,
    most_left: float,
) -> ErrorPlace | None:
    """The narrowest part of a dim that has so much of the error, and leaves no more."""
    best, least = None, largest_part
    for dim in grid.dims:
        squares, edges = grid.squares[dim,], grid.edges[dim]
        total = float(squares.sum())
        if not 0 < total < math.inf:
            continue
        order = np.argsort(-squares, kind="stable")
        shares = np.cumsum(squares[order]) / total
        least_square = squares[order[np.searchsorted(shares, least_share)]]
        is_in = squares >= least_square * _ALIKE
        part = float(np.diff(edges)[is_in].sum()) / float(edges[-1])
        ranges = joined_bins(edges, is_in)
        if len(ranges) > _MAX_RANGES or part > least or (best and part == least):
            continue
        if float(squares[~is_in].sum()) > most_left:
            continue
        least = part
        best = ErrorPlace(
            dim=dim,
            ranges=tuple(ranges),
            share=float(f"{float(squares[is_in].sum()) / total:.3g}"),
            ranks=ranks_holding(candidate, dim, ranges),
        )
    return best
