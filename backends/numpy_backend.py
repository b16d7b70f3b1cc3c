"""The oracle: pair statistics in plain float64, written to be read."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats
from ttrace.ir.dtypes import dtype_named

CHUNK_ELEMENTS = 1 << 16
"""Elements examined at once: bounds memory, and its temporaries stay in cache."""


class NumpyBackend:
    """Compares in float64, chunk by chunk, with nothing but numpy."""

    name = "numpy"

    def compare(self, pairs: Iterable[ArrayPair]) -> Iterator[PairStats]:
        return map(compare_all, pairs)


def compare_all(pair: ArrayPair) -> PairStats:
    """Statistics of a pair.

    Raises:
        DtypeError: A side has a dtype that ttrace does not compare.
    """
    assert pair.reference.shape == pair.candidate.shape, "pairs have one shape"
    dtype_named(pair.reference.dtype.name)
    dtype_named(pair.candidate.dtype.name)
    return compare_range(pair, 0, pair.reference.size)


def compare_range(pair: ArrayPair, start: int, stop: int) -> PairStats:
    """Statistics of the elements [start, stop) in C order."""
    stats = PairStats()
    for begin in range(start, stop, CHUNK_ELEMENTS):
        end = min(begin + CHUNK_ELEMENTS, stop)
        reference, candidate = exact_values(pair, begin, end)
        stats = stats.merge(_compare_values(reference, candidate))
    return stats


def copy_range(array: np.ndarray, start: int, stop: int, out: np.ndarray) -> None:
    """Copies the elements [start, stop), in C order, to ``out`` and its dtype.

    Unlike a ``reshape(-1)``, it never copies all of a strided array.
    """
    if start == stop:
        return
    if array.ndim <= 1 or array.flags.c_contiguous:
        np.copyto(out, array.reshape(-1)[start:stop], casting="unsafe")
        return
    row_size = array.size // array.shape[0]
    first, last = -(-start // row_size), stop // row_size
    if first > last:  # all within one row
        offset = last * row_size
        copy_range(array[last], start - offset, stop - offset, out)
        return
    head, tail = first * row_size - start, last * row_size - start
    if head:
        copy_range(array[first - 1], row_size - head, row_size, out[:head])
    rows = out[head:tail].reshape(last - first, *array.shape[1:])
    np.copyto(rows, array[first:last], casting="unsafe")
    if tail < out.size:
        copy_range(array[last], 0, out.size - tail, out[tail:])


def is_power_of_two(factor: float) -> bool:
    return factor > 0 and math.frexp(factor)[0] == 0.5


Values = tuple[np.ndarray, np.ndarray | None]
"""``high`` and ``low``, float64 ``[num_elements]``: the value is their sum.

Only 64-bit integers have ``low``, the remainder by 2**32, of the sign of the value:
both parts, the differences of both parts, and hence the difference of two integers
rounded once, are what exact arithmetic gives.
"""


def exact_values(pair: ArrayPair, start: int, stop: int) -> tuple[Values, Values]:
    """Reference and factor * candidate of the elements [start, stop)."""
    candidate = _exact_values(pair.candidate, start, stop)
    if pair.factor != 1.0:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            high, low = candidate
            # Parts that both overflow would add up to NaN.
            if (
                low is not None
                and is_power_of_two(pair.factor)
                and pair.factor < 2.0**900
            ):
                candidate = high * pair.factor, low * pair.factor
            else:
                candidate = _total(candidate) * pair.factor, None
    return _exact_values(pair.reference, start, stop), candidate


def subtract(reference: Values, candidate: Values) -> np.ndarray:
    """Candidate minus reference, 0 where one of them is not finite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        difference = candidate[0] - reference[0]
        if reference[1] is not None or candidate[1] is not None:
            zero = np.float64(0)
            low_r, low_c = (
                zero if low is None else low for _, low in (reference, candidate)
            )
            difference += low_c - low_r
    if np.isfinite(difference).all():
        return difference
    both_finite = np.isfinite(reference[0]) & np.isfinite(candidate[0])
    return np.where(both_finite, difference, 0.0)


def _exact_values(array: np.ndarray, start: int, stop: int) -> Values:
    if array.dtype in (np.int64, np.uint64):
        integers = np.empty(stop - start, array.dtype)
        copy_range(array, start, stop, integers)
        low = np.fmod(integers, array.dtype.type(2**32))
        return (integers - low).astype(np.float64), low.astype(np.float64)
    values = np.empty(stop - start, np.float64)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        copy_range(array, start, stop, values)
    return values, None


def _total(values: Values) -> np.ndarray:
    high, low = values
    return high if low is None else high + low


def _compare_values(reference: Values, candidate: Values) -> PairStats:
    difference = subtract(reference, candidate)
    r, c = _total(reference), _total(candidate)
    nan_r, nan_c = np.isnan(r), np.isnan(c)
    both_finite = np.isfinite(r) & np.isfinite(c)
    equal = np.where(both_finite, difference == 0, (r == c) | (nan_r & nan_c))

    r0, c0 = np.where(both_finite, r, 0.0), np.where(both_finite, c, 0.0)
    norm_r, unit_r = _norm(r0)
    norm_c, unit_c = _norm(c0)
    norm_d, _ = _norm(difference)
    position = int(np.argmax(np.abs(difference)))
    max_abs_diff = float(abs(difference[position]))
    return PairStats(
        count=r.size,
        reference_norm=norm_r,
        candidate_norm=norm_c,
        difference_norm=norm_d,
        cosine=max(-1.0, min(1.0, float(np.sum(unit_r * unit_c)))),
        max_abs_diff=max_abs_diff,
        max_abs_diff_at=position if max_abs_diff else None,
        max_abs_reference=float(np.max(np.abs(r0))),
        max_abs_candidate=float(np.max(np.abs(c0))),
        num_unequal=int(np.count_nonzero(~equal)),
        num_nan_reference=int(np.count_nonzero(nan_r)),
        num_nan_candidate=int(np.count_nonzero(nan_c)),
        num_inf_reference=int(np.count_nonzero(np.isinf(r))),
        num_inf_candidate=int(np.count_nonzero(np.isinf(c))),
        num_nonfinite_unequal=int(np.count_nonzero(~equal & ~both_finite)),
    )


def _norm(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Frobenius norm, and the values divided by it (zeros if it is 0).

    Squares are taken of values scaled by a power of two, which is exact, so that
    they neither overflow nor underflow where the norm does not.
    """
    largest = float(np.max(np.abs(values)))
    if largest == 0 or math.isinf(largest):
        return largest, np.zeros_like(values)
    exponent = max(-1000, min(1000, math.frexp(largest)[1]))
    with np.errstate(over="ignore", under="ignore"):
        scaled = values * math.ldexp(1.0, -exponent)
        norm = math.sqrt(float(np.sum(np.square(scaled))))
        return float(np.ldexp(norm, exponent)), scaled / norm
