"""A second look at a tensor that differs: how many elements, by how much, and where.

Reads both runs once more, in boxes that fit a core's cache, on all cores. Numpy alone,
whatever backend compared: a look is at a few tensors, and its counts are the same
everywhere.
"""

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ttrace.compare.backend import ArrayPair
from ttrace.compare.details.error_grid import Bins, ErrorGrid
from ttrace.compare.details.error_picture import draw
from ttrace.compare.details.tensor_details import TensorDetails, UlpHistogram
from ttrace.compare.details.ulp import (
    NUM_BINS,
    count_by_digits,
    float_distances,
    in_format,
    integer_distances,
    unit_dtype,
    widened,
)
from ttrace.compare.execute import TensorResult, read_pair
from ttrace.compare.operands import PairPlan
from ttrace.compare.plan import Pair
from ttrace.compare.rows import RowPair
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.trace_source import TraceSource
from ttrace.store.mapped_files import check_unchanged, let_go

BOX_ELEMENTS = 1 << 15
"""Elements looked at together: what is computed of them stays in cache, and is small
enough that the memory of one box serves the next (of twice as many it does not, which
takes twice the time)."""

TASK_ELEMENTS = 1 << 21
"""Elements that a thread goes over between two looks at the size of their files."""

PAIR_COST = 1 << 15
"""Elements that are read in the time that Python takes for a pair, about."""

Box = tuple[slice, ...]


def cost_of(result: TensorResult) -> int:
    """What a look at a tensor costs, in elements."""
    return sum(max(pair.size, PAIR_COST) for pair in result.plan.pairs)


def look_closer(
    result: TensorResult,
    reference: TraceSource,
    candidate: TraceSource,
    *,
    tolerated: float,
) -> TensorDetails | None:
    """Looks at every element of a tensor once more.

    Memory holds a few boxes for each thread; arrays are memory maps.

    Args:
        result: Of the comparison.
        reference: The trusted run.
        candidate: The run under test.
        tolerated: Frobenius norm of the difference that rounding explains.

    Returns:
        None where no element differs, or what was compared is not what was recorded.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    plan = result.plan
    if (
        not result.stats.num_unequal
        or result.broadcast_shape is not None
        or result.mask_notations is not None
    ):
        return None
    records = (plan.match.reference, plan.match.candidate)
    look = _Look(
        shape=records[0].global_shape,
        units=unit_dtype(records[0].shards[0].dtype, records[1].shards[0].dtype),
        beyond=tolerated / math.sqrt(result.stats.count),
        exponent=_exponent(result.stats.max_abs_diff),
    )
    total = _Sums(look)
    num_threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads) as pool:
        running: deque[Future[_Sums]] = deque()
        for pair in plan.pairs:
            if not pair.size:
                continue
            bins = _bins_of(pair, total.grid)
            total.grid.count(bins, pair.size)
            arrays = read_pair(pair, reference, candidate)
            for box in boxes_of(arrays.reference.shape, TASK_ELEMENTS):
                running.append(pool.submit(_task, look, arrays, box, bins))
                if len(running) > 2 * num_threads:
                    total.merge(running.popleft().result())
        for task in running:
            total.merge(task.result())
    return TensorDetails(
        ulp_histogram=UlpHistogram(
            dtype=look.units,
            counts=tuple(np.trim_zeros(total.digits, "b").tolist()),
            num_not_comparable=total.num_not_comparable,
        ),
        num_beyond=total.num_beyond,
        **draw(
            total.grid,
            _unit(result, look.exponent),
            *records,
            tolerated=_square(tolerated, look.exponent),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What all boxes of a tensor are looked at by.

    Attributes:
        shape: Of the tensor.
        units: Name of the dtype whose units in the last place count.
        beyond: The absolute difference from which on an element is off.
        exponent: Differences are squared in units of this power of two.
    """

    shape: tuple[int, ...]
    units: str
    beyond: float
    exponent: int


class _Sums:
    """What was found in some boxes of a tensor."""

    def __init__(self, look: _Look):
        self.digits = np.zeros(NUM_BINS, np.int64)
        self.num_not_comparable = 0
        self.num_beyond = 0
        self.grid = ErrorGrid(look.shape)

    def merge(self, other: "_Sums") -> None:
        self.digits += other.digits
        self.num_not_comparable += other.num_not_comparable
        self.num_beyond += other.num_beyond
        self.grid.merge(other.grid)


def _exponent(largest: float) -> int:
    """Of a power of two near the largest difference, so that no square overflows."""
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 1000
    return max(-1000, min(1000, exponent))


def _unit(result: TensorResult, exponent: int) -> float:
    """What squared differences are in, over the root mean square of the reference."""
    stats = result.stats
    if stats.reference_norm == 0:
        return math.inf
    fraction, own = math.frexp(stats.reference_norm / math.sqrt(stats.count))
    try:
        return math.ldexp(1 / fraction, exponent - own)
    except OverflowError:
        return math.inf


def _square(norm: float, exponent: int) -> float:
    """The square of a norm, in the units of squared differences."""
    try:
        return math.ldexp(norm, -exponent) ** 2
    except OverflowError:
        return math.inf


def _bins_of(pair: Pair, grid: ErrorGrid) -> dict[int, Bins]:
    """Where the elements of a pair lie in the tensor, by dim."""
    if isinstance(pair, PairPlan):
        region, row_dim, rows = pair.region, None, None
    else:
        own = pair.reference if isinstance(pair, RowPair) else pair.rows
        region, row_dim, rows = own.columns, own.dim, own.positions
    return {
        dim: Bins.of(
            rows
            if rows is not None and dim == row_dim
            else np.arange(region.start[dim], region.stop[dim]),
            grid.edges[dim],
        )
        for dim in grid.dims
    }


def boxes_of(shape: tuple[int, ...], max_elements: int) -> Iterator[Box]:
    """Cuts an array into boxes of a bounded number of elements, in C order.

    Yields:
        A slice for each dim.
    """
    axis = 0
    while axis < len(shape) and math.prod(shape[axis + 1 :]) > max_elements:
        axis += 1
    if axis == len(shape):
        yield ()
        return
    step = max(1, max_elements // math.prod(shape[axis + 1 :]))
    rest = tuple(slice(0, length) for length in shape[axis + 1 :])
    for index in np.ndindex(*shape[:axis]):
        before = tuple(slice(i, i + 1) for i in index)
        for start in range(0, shape[axis], step):
            yield (*before, slice(start, min(start + step, shape[axis])), *rest)


def _task(look: _Look, pair: ArrayPair, box: Box, bins: dict[int, Bins]) -> _Sums:
    """Looks at one part of a pair, box after box."""
    sides = [
        np.atleast_1d(side[(*box, ...)]) for side in (pair.reference, pair.candidate)
    ]
    check_unchanged(*sides)
    sums = _Sums(look)
    outer = {dim: bins[dim].cut(box[dim].start, box[dim].stop) for dim in bins}
    with np.errstate(all="ignore"):
        for inner in boxes_of(sides[0].shape, BOX_ELEMENTS):
            cut = {
                dim: outer[dim].cut(inner[dim].start, inner[dim].stop) for dim in outer
            }
            here, there = (side[(*inner, ...)] for side in sides)
            _look_at(look, here, there, pair.factor, cut, sums)
    for side in sides:
        if side.flags.c_contiguous:
            let_go(side)
    return sums


def _look_at(
    look: _Look,
    reference: np.ndarray,
    candidate: np.ndarray,
    factor: float,
    bins: dict[int, Bins],
    sums: _Sums,
) -> None:
    r, c = widened(reference), widened(candidate)
    if factor != 1.0:
        c *= factor
        candidate = c
    difference = np.abs(np.subtract(c, r))
    distances = _distances(look.units, (reference, r), (candidate, c), difference)
    if dtype_named(look.units).epsilon is None:
        difference = distances.astype(np.float64) if factor == 1.0 else difference
    elif not (np.isfinite(r).all() and np.isfinite(c).all()):
        is_equal = r == c  # equal infinities, too
        is_finite = np.isfinite(r) & np.isfinite(c)
        is_nan = np.isnan(r) & np.isnan(c)
        difference[is_equal | is_nan] = 0.0
        difference[~(is_finite | is_equal | is_nan)] = np.inf
        distances = np.where(is_equal, 0, distances)[is_finite | is_equal]
        sums.num_not_comparable += r.size - distances.size
    sums.digits += count_by_digits(distances)
    sums.num_beyond += int(np.count_nonzero(difference > look.beyond))
    difference *= math.ldexp(1.0, -look.exponent)
    sums.grid.add(np.square(difference, out=difference), bins)


def _distances(
    units: str,
    reference: tuple[np.ndarray, np.ndarray],
    candidate: tuple[np.ndarray, np.ndarray],
    difference: np.ndarray,
) -> np.ndarray:
    """Of each element in units in the last place, or as integers.

    Args:
        units: See ``_Look``.
        reference: As it is stored, and as float64.
        candidate: Likewise.
        difference: The absolute one: float64.
    """
    if dtype_named(units).epsilon is not None:
        return float_distances(
            in_format(*reference, units), in_format(*candidate, units)
        )
    if reference[0].dtype.kind in "iub" and candidate[0].dtype.kind in "iub":
        return integer_distances(reference[0], candidate[0])
    return np.minimum(np.ceil(difference), 2.0**63).astype(np.uint64)
