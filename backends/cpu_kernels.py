"""Statistics of ranges of elements in numpy, written for speed; ``numpy_backend`` is
the one to be read.

Blocks that fit a core's cache are widened to float64, in which the squares of values of
at most 32 bits neither overflow nor underflow, and gone over a few times by numpy's
vectorized loops. What float64 cannot hold so is left to the numpy backend.
"""

import functools
from dataclasses import dataclass, field

import numpy as np

from ttrace.backends.numpy_backend import copy_range
from ttrace.backends.tile_table import SIDES
from ttrace.compare.backend import ArrayPair
from ttrace.ir.dtypes import DTYPES, dtype_named

BLOCK_ELEMENTS = 1 << 17
"""Elements that are looked at together. A few arrays of them fit the caches of a core,
and Python's own time is small beside numpy's."""

_DOT_ELEMENTS = 1 << 13
"""Elements of one call of BLAS; OpenBLAS starts threads of its own beyond 10 000."""

_LEAST, _MOST = 1e-140, 1e140
"""Between these, sums of squares of float64 neither overflow nor lose anything."""

_EXACT_INTEGER = 1 << 53
"""Up to here, float64 holds all integers."""

_AS_FLOAT32 = frozenset({"bfloat16", "int8", "int16", "uint8", "uint16", "bool"})
"""Dtypes that numpy widens to float32 fast."""

_BY_TABLE = frozenset({"float16", "float8_e4m3fn", "float8_e5m2"})
"""Dtypes that numpy would widen number by number."""


@dataclass(slots=True, kw_only=True, eq=False)
class RangeStats:
    """What one look at some elements tells; all of it in float64.

    Attributes:
        sums: Side -> sum of squares, in the order of ``SIDES``.
        product: Inner product.
        maxima: Largest absolute value of each side.
        max_difference_at: Where the largest difference is first.
        counts: By name; those that are missing are 0.
    """

    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    product: float = 0.0
    maxima: tuple[float, float, float] = (0.0, 0.0, 0.0)
    max_difference_at: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_safe(self) -> bool:
        """Whether no square overflowed, or underflowed such that it would matter."""
        return all(m == 0 or _LEAST < m < _MOST for m in self.maxima)


class Scratch:
    """Memory for one thread, so that nothing is allocated for each block."""

    def __init__(self) -> None:
        n = BLOCK_ELEMENTS
        self.wide = (np.empty(n), np.empty(n))
        self.narrow = (np.empty(n, np.float32), np.empty(n, np.float32))
        self.raw = np.empty(n, np.uint64)
        self.mask = np.empty(n, bool)


def measure_range(
    pair: ArrayPair, start: int, stop: int, scratch: Scratch
) -> RangeStats | None:
    """Statistics of the elements [start, stop) of a pair, one block at most.

    Returns:
        None where only the numpy backend can tell.

    Raises:
        DtypeError: A side has a dtype that ttrace does not compare.
    """
    reference = _plain(pair.reference, start, stop, scratch, 0)
    candidate = _plain(pair.candidate, start, stop, scratch, 1)
    if reference is None or candidate is None:
        return None
    if reference.dtype == candidate.dtype == np.float32 and pair.factor == 1.0:
        maxima = _largest(reference), _largest(candidate)
        if np.isfinite(maxima).all():
            return _measure_narrow(reference, candidate, maxima, scratch)
    r, c = widen(reference, candidate, pair.factor, scratch)
    counts = {}
    if not (np.isfinite(r).all() and np.isfinite(c).all()):
        counts = take_out_nonfinite(r, c)
        counts = {name: int(np.count_nonzero(mask)) for name, mask in counts.items()}
    maxima = _largest(r), _largest(c)
    stats = _measure_wide(r, c, maxima)
    unequal = int(np.count_nonzero(c))  # which holds the differences now
    stats.counts = counts | {
        "num_unequal": unequal + counts.get("num_nonfinite_unequal", 0)
    }
    return stats if stats.is_safe else None


def _measure_narrow(
    reference: np.ndarray,
    candidate: np.ndarray,
    maxima: tuple[float, float],
    scratch: Scratch,
) -> RangeStats:
    """Of finite float32, which float64 never overflows."""
    mask = scratch.mask[: reference.size]
    unequal = np.count_nonzero(np.not_equal(reference, candidate, out=mask))
    if not unequal:
        r = scratch.wide[0][: reference.size]
        np.copyto(r, reference)
        square = _dot(r, r)
        return RangeStats(
            sums=(square, square, 0.0), product=square, maxima=(*maxima, 0.0)
        )
    stats = _measure_wide(*widen(reference, candidate, 1.0, scratch), maxima)
    stats.counts = {"num_unequal": int(unequal)}
    return stats


def _measure_wide(
    r: np.ndarray, c: np.ndarray, maxima: tuple[float, float]
) -> RangeStats:
    """Of finite float64; the candidate is replaced by the difference."""
    squares, product = (_dot(r, r), _dot(c, c)), _dot(r, c)
    difference = np.subtract(c, r, out=c)
    high, low = int(difference.argmax()), int(difference.argmin())
    most, least = float(difference[high]), -float(difference[low])
    at = min(high, low) if most == least else high if most > least else low
    return RangeStats(
        sums=(*squares, _dot(difference, difference)),
        product=product,
        maxima=(*maxima, max(most, least)),
        max_difference_at=at,
    )


def widen(
    reference: np.ndarray, candidate: np.ndarray, factor: float, scratch: Scratch
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides in float64, the candidate times a factor."""
    r, c = (side[: reference.size] for side in scratch.wide)
    np.copyto(r, reference)
    np.copyto(c, candidate)
    if factor != 1.0:
        c *= factor
    return r, c


def take_out_nonfinite(r: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray]:
    """Puts zeros where one side is not finite, on both sides.

    Returns:
        Name of a count -> which elements count.
    """
    nan_r, nan_c = np.isnan(r), np.isnan(c)
    out = ~(np.isfinite(r) & np.isfinite(c))
    masks = {
        "num_nonfinite_unequal": out & (r != c) & ~(nan_r & nan_c),
        "num_nan_reference": nan_r,
        "num_nan_candidate": nan_c,
        "num_inf_reference": np.isinf(r),
        "num_inf_candidate": np.isinf(c),
    }
    r[out] = 0.0
    c[out] = 0.0
    return masks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ManyStats:
    """What ``measure_many`` tells of pairs, each a column: ``[num_pairs]``.

    Attributes:
        sums: As of a ``RangeStats``, in columns, like all that follows.
        product: Inner products.
        maxima: Largest absolute values.
        max_difference_at: Where the largest difference is first.
        counts: By name; those that are missing are 0.
        is_safe: As of a ``RangeStats``.
    """

    sums: list[np.ndarray]
    product: np.ndarray
    maxima: list[np.ndarray]
    max_difference_at: np.ndarray
    counts: dict[str, np.ndarray]
    is_safe: np.ndarray


def measure_many(pairs: list[ArrayPair], scratch: Scratch) -> ManyStats | None:
    """Statistics of small pairs of the same two dtypes, together one block at most.

    Args:
        pairs: None of them empty.
        scratch: Memory of this thread.

    Returns:
        None where only the numpy backend can tell.
    """
    sizes = np.array([pair.reference.size for pair in pairs])
    starts = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    plain = [
        _plain(np.concatenate([a.reshape(-1) for a in arrays]), 0, total, scratch, i)
        for i, arrays in enumerate(
            ([p.reference for p in pairs], [p.candidate for p in pairs])
        )
    ]
    if plain[0] is None or plain[1] is None:
        return None
    r, c = widen(plain[0], plain[1], 1.0, scratch)
    factors = np.array([pair.factor for pair in pairs])
    if (factors != 1.0).any():
        c *= np.repeat(factors, sizes)
    counts = {}
    if not (np.isfinite(r).all() and np.isfinite(c).all()):
        masks = take_out_nonfinite(r, c)
        counts = {name: _count_each(mask, starts) for name, mask in masks.items()}
    d = c - r
    unequal = _count_each(d != 0, starts)
    counts["num_unequal"] = unequal + counts.get("num_nonfinite_unequal", 0)
    distances = np.abs(d)
    maxima = [
        np.maximum.reduceat(side, starts) for side in (np.abs(r), np.abs(c), distances)
    ]
    hits = np.flatnonzero(distances == np.repeat(maxima[2], sizes))
    return ManyStats(
        sums=[np.add.reduceat(side * side, starts) for side in (r, c, d)],
        product=np.add.reduceat(r * c, starts),
        maxima=maxima,
        max_difference_at=hits[np.searchsorted(hits, starts)] - starts,
        counts=counts,
        is_safe=np.logical_and.reduce(
            [(m == 0) | ((m > _LEAST) & (m < _MOST)) for m in maxima]
        ),
    )


def _count_each(mask: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(mask, starts, dtype=np.int64)


def _plain(
    array: np.ndarray, start: int, stop: int, scratch: Scratch, side: int
) -> np.ndarray | None:
    """Elements in a dtype that numpy computes with, float32 if that holds them.

    Of 64-bit integers that float64 does not hold: None.
    """
    name = _name_of(array.dtype)
    size = stop - start
    if name == "float32":
        return _flat(array, start, stop, scratch.narrow[side])
    if name in _AS_FLOAT32:
        out = scratch.narrow[side][:size]
        copy_range(array, start, stop, out)
        return out
    if name in _BY_TABLE:
        out = scratch.narrow[side][:size]
        bits = _flat(array, start, stop, scratch.raw.view(DTYPES[name].numpy))
        _look_up(bits.view(f"u{bits.itemsize}"), name, out)
        return out
    if name in ("int64", "uint64"):
        integers = _flat(array, start, stop, scratch.raw.view(name))
        bounds = int(integers.min()), int(integers.max())
        if not -_EXACT_INTEGER <= bounds[0] <= bounds[1] <= _EXACT_INTEGER:
            return None
        array, start, stop = integers, 0, size
    out = scratch.wide[side][:size]
    copy_range(array, start, stop, out)
    return out


@functools.lru_cache(maxsize=64)
def _name_of(dtype: np.dtype) -> str:
    # Numpy makes up the name of a dtype each time.
    return dtype_named(dtype.name).name


def _flat(array: np.ndarray, start: int, stop: int, room: np.ndarray) -> np.ndarray:
    """Elements in C order and the native order of bytes: a view, or in the room."""
    if array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative:
        return array.reshape(-1)[start:stop]
    out = room[: stop - start]
    copy_range(array, start, stop, out)
    return out


def _look_up(bits: np.ndarray, name: str, out: np.ndarray) -> None:
    if bits.itemsize == 2:
        np.take(_table(name), bits, out=out, mode="clip")
        return
    # Two at once, as one of 65536 pairs.
    even = bits.size & ~1
    if bits.ctypes.data % 2 == 0:
        np.take(
            _table_of_two(name),
            bits[:even].view(np.uint16),
            out=out[:even].view(np.uint64),
            mode="clip",
        )
    else:
        np.take(_table(name), bits[:even], out=out[:even], mode="clip")
    out[even:] = _table(name)[bits[even:]]


@functools.cache
def _table(name: str) -> np.ndarray:
    """The value of every number of a small dtype, float32."""
    dtype = DTYPES[name].numpy
    bits = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return bits.view(dtype).astype(np.float32)


@functools.cache
def _table_of_two(name: str) -> np.ndarray:
    """Two values, as the bits of one uint64, by the bits of two numbers of 8 bits."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    return _table(name)[bits].view(np.uint64)


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Inner product of float64, without the threads of BLAS.

    Of many pieces at once: each call is too short to let other threads go on meanwhile.
    """
    whole = left.size - left.size % _DOT_ELEMENTS
    total = float(np.dot(left[whole:], right[whole:]))
    if whole:
        rows = left[:whole].reshape(-1, 1, _DOT_ELEMENTS)
        columns = right[:whole].reshape(-1, _DOT_ELEMENTS, 1)
        total += float(np.matmul(rows, columns).sum())
    return total


def _largest(values: np.ndarray) -> float:
    """The largest absolute value; NaN if there is one.

    By the bits, as the maximum of integers needs no care for NaN: the largest positive
    number is the largest signed integer, the largest negative one the largest unsigned.
    """
    bits = values.itemsize * 8
    high = int(values.view(f"i{values.itemsize}").max())
    low = int(values.view(f"u{values.itemsize}").max())
    magnitude = max(high, low - (1 << (bits - 1)), 0)
    return float(np.array(magnitude, f"u{values.itemsize}").view(values.dtype))


assert SIDES == ("reference", "candidate", "difference"), "the order of the sums"
