"""Distances in units in the last place, against the numbers of a format in a row."""

import numpy as np
import pytest

from ttrace.compare.details.ulp import (
    NUM_BINS,
    count_by_digits,
    float_distances,
    in_format,
    integer_distances,
    unit_dtype,
    widened,
)
from ttrace.ir.dtypes import DTYPES

SMALL = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def all_numbers(name):
    """Every finite number of a format, ascending, both zeros as one."""
    dtype = DTYPES[name].numpy
    bits = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = bits.view(dtype).astype(np.float64)
    return np.unique(wide[np.isfinite(wide)])


@pytest.mark.parametrize("name", SMALL)
def test_distance_is_how_many_numbers_apart_two_are(name):
    numbers = all_numbers(name)
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, len(numbers), (2, 20_000))
    values = numbers.astype(DTYPES[name].numpy)
    distances = float_distances(values[ours], values[theirs])
    assert distances.tolist() == np.abs(ours - theirs).tolist()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_neighbours_are_one_apart(name):
    dtype = np.dtype(name)
    info = np.finfo(dtype)
    values = np.array(
        [0.0, -0.0, 1.0, -1.0, 1.5, info.tiny, info.smallest_subnormal, -info.max],
        dtype,
    )
    for direction in (np.inf, -np.inf):
        with np.errstate(over="ignore", under="ignore"):
            after = np.nextafter(values, dtype.type(direction))
        expected = [0 if a == b else 1 for a, b in zip(values, after, strict=True)]
        assert float_distances(values, after).tolist() == expected
    infinity = np.array([np.inf], dtype)
    assert float_distances(np.array([info.max], dtype), infinity).tolist() == [1]


def test_distances_across_zero_and_of_all_of_float64():
    tiny = np.finfo(np.float64).smallest_subnormal
    assert float_distances(np.array([tiny]), np.array([-tiny])).tolist() == [2]
    most = np.array([np.finfo(np.float64).max])
    assert float_distances(most, -most).tolist() == [2 * 0x7FEFFFFFFFFFFFFF]
    zeros = np.array([0.0, -0.0], np.float32)
    assert float_distances(zeros, zeros[::-1]).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_differences_of_wide_integers_are_exact(dtype):
    info = np.iinfo(dtype)
    ours = np.array([info.min, info.max, 5, 2**60], dtype)
    theirs = np.array([info.max, info.min, 8, 2**60 + 1], dtype)
    distances = integer_distances(ours, theirs)
    assert distances.tolist() == [2**64 - 1, 2**64 - 1, 3, 1]


def test_differences_of_narrow_integers_and_booleans():
    ours, theirs = np.array([-128, 127], np.int8), np.array([255, 0], np.uint8)
    assert integer_distances(ours, theirs).tolist() == [383, 127]
    flags = np.array([True, False, True])
    assert integer_distances(flags, ~flags).tolist() == [1, 1, 1]


def test_differences_of_signed_and_unsigned_integers():
    signed = np.array([-1, -(2**63), -(2**63), 2**63 - 1, 7])
    unsigned = np.array([1, 2**63 - 1, 2**64 - 1, 0, 9], np.uint64)
    expected = [2, 2**64 - 1, 2**64 - 1, 2**63 - 1, 2]
    assert integer_distances(signed, unsigned).tolist() == expected
    assert integer_distances(unsigned, signed).tolist() == expected
    small = np.array([-1, 5, 5, 5, 5], np.int8)
    assert integer_distances(small, unsigned)[:2].tolist() == [2, 2**63 - 6]


def test_bins_are_binary_digits():
    distances = [0, 0, 1, 2, 3, 4, 7, 8, 2**52, 2**53 - 1, 2**53, 2**54 - 1, 2**64 - 1]
    counts = count_by_digits(np.array(distances, np.uint64))
    expected = [0] * NUM_BINS
    for distance in distances:
        expected[distance.bit_length()] += 1
    assert counts.tolist() == expected


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ("float32", "bfloat16", "bfloat16"),
        ("float16", "bfloat16", "bfloat16"),
        ("float8_e4m3fn", "float8_e5m2", "float8_e5m2"),
        ("float64", "float32", "float32"),
        ("int64", "float32", "float32"),
        ("int8", "int32", "int32"),
        ("bool", "bool", "bool"),
    ],
)
def test_units_are_those_of_the_coarser_dtype(reference, candidate, expected):
    assert unit_dtype(reference, candidate) == expected
    assert unit_dtype(candidate, reference) == expected


@pytest.mark.parametrize("name", SMALL)
def test_what_is_too_large_for_a_format_is_its_largest_number(name):
    largest = all_numbers(name)[-1]
    values = np.array([1e300, -1e300, np.inf, np.nan])
    rounded = in_format(values, values, name).astype(np.float64)
    assert rounded[:2].tolist() == [largest, -largest]
    assert not np.isfinite(rounded[2:]).any()


@pytest.mark.parametrize("name", DTYPES)
def test_widening_loses_nothing(name):
    dtype = DTYPES[name].numpy
    bits = np.random.default_rng(1).integers(0, 256, 64 * dtype.itemsize, np.uint8)
    values = (bits > 127) if name == "bool" else bits.view(dtype)
    wide = widened(values)
    assert wide.dtype == np.float64
    with np.errstate(invalid="ignore"):  # signalling NaNs
        np.testing.assert_array_equal(wide, values.astype(np.float64))
