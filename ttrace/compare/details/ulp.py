"""How many representable numbers lie between two values: units in the last place.

The bits of an IEEE 754 number, read as sign and magnitude, order the numbers of a
format: its neighbours are the integers next to it. The distance of two values in units
in the last place is that of these integers, across zero and to infinity, too
(B. Dawson, "Comparing Floating Point Numbers", 2012; Goldberg 1991, section 1.2).
"""

import ml_dtypes
import numpy as np

from ttrace.ir.dtypes import DTYPES, dtype_named

NUM_BINS = 65
"""A distance has at most 64 binary digits."""

_BY_TABLE = frozenset({"float8_e4m3fn", "float8_e5m2"})
"""Dtypes that numpy would widen number by number."""

_EXACT_INTEGER = 1 << 53
"""Up to here, float64 holds all integers."""


def unit_dtype(reference: str, candidate: str) -> str:
    """The dtype whose units count: the coarser floating-point one, or the wider one.

    Args:
        reference: Name of the dtype of a side.
        candidate: Of the other.
    """
    given = (dtype_named(reference), dtype_named(candidate))
    floats = [dtype for dtype in given if dtype.epsilon is not None]
    if floats:
        return max(floats, key=lambda dtype: dtype.epsilon or 0.0).name
    return max(given, key=lambda dtype: dtype.numpy.itemsize).name


def widened(values: np.ndarray) -> np.ndarray:
    """The same values as float64; integers from 2**53 on are rounded."""
    table = _TABLES.get(values.dtype.name)
    if table is not None:
        return table[values.view(np.uint8)]
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return values.astype(np.float64)


_TABLES = {
    name: np.arange(256, dtype=np.uint8).view(DTYPES[name].numpy).astype(np.float64)
    for name in sorted(_BY_TABLE)
}


def in_format(values: np.ndarray, wide: np.ndarray, name: str) -> np.ndarray:
    """Values in a floating-point dtype; what is too large becomes its largest number.

    Args:
        values: As they are stored.
        wide: The same as float64, or what they are compared as.
        name: Of the dtype.
    """
    dtype = DTYPES[name].numpy
    if values.dtype == dtype:
        return values
    largest = float(ml_dtypes.finfo(dtype).max)
    with np.errstate(over="ignore", invalid="ignore"):
        clipped = np.where(np.isinf(wide), wide, np.clip(wide, -largest, largest))
        return clipped.astype(dtype)


def float_distances(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Units in the last place between numbers of one floating-point dtype.

    Args:
        reference: Any shape; what it gives for NaN means nothing.
        candidate: Likewise.

    Returns:
        Of int64, of float64 numbers uint64.
    """
    ours, theirs = _ordered(reference), _ordered(candidate)
    if ours.dtype.itemsize < 8:
        return np.abs(np.subtract(ours, theirs, dtype=np.int64))
    return _unsigned_distances(ours, theirs)


def integer_distances(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Absolute differences of integers or booleans.

    Returns:
        Of int64 or uint64; what that does not hold is its largest number.
    """
    if max(reference.dtype.itemsize, candidate.dtype.itemsize) < 8:
        return np.abs(
            reference.astype(np.int64, copy=False)
            - candidate.astype(np.int64, copy=False)
        )
    common = np.result_type(reference, candidate)
    if common.kind in "iu":
        return _unsigned_distances(
            reference.astype(common, copy=False), candidate.astype(common, copy=False)
        )
    # Numpy has no integer for both uint64 and what may be negative.
    unsigned, signed = reference, candidate.astype(np.int64, copy=False)
    if candidate.dtype.kind == "u":
        unsigned, signed = candidate, reference.astype(np.int64, copy=False)
    magnitude = np.abs(signed).view(np.uint64)  # of the least one, too
    sums = unsigned + magnitude
    sums[sums < unsigned] = np.iinfo(np.uint64).max  # it overflowed
    return np.where(signed < 0, sums, _unsigned_distances(unsigned, magnitude))


def count_by_digits(distances: np.ndarray) -> np.ndarray:
    """How many distances have 0, 1, 2, ... binary digits: int64, ``[NUM_BINS]``.

    Args:
        distances: Of int64 or uint64, none negative.
    """
    if distances.size and distances.max() >= _EXACT_INTEGER:
        # Without its lowest digits a number is a float64, of as many digits.
        kept = distances & ~distances.dtype.type((1 << 11) - 1)
        distances = np.where(distances >= _EXACT_INTEGER, kept, distances)
    exponents = distances.astype(np.float64).view(np.int64) >> 52
    digits = np.maximum(exponents - 1022, 0)
    return np.bincount(digits.reshape(-1), minlength=NUM_BINS)


def _ordered(values: np.ndarray) -> np.ndarray:
    """Signed integers in the order of the numbers; both zeros are 0."""
    size = values.dtype.itemsize
    bits = np.ascontiguousarray(values).view(f"i{size}")
    sign = bits >> bits.dtype.type(8 * size - 1)  # 0, or all ones
    magnitude = bits & np.iinfo(bits.dtype).max
    return (magnitude ^ sign) - sign


def _unsigned_distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Of 64-bit integers; what overflows as signed is right as unsigned: uint64."""
    with np.errstate(over="ignore"):
        return (np.maximum(ours, theirs) - np.minimum(ours, theirs)).view(np.uint64)
