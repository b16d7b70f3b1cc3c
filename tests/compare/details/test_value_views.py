"""Figures, slices and differences of values that a person looks at."""

import math

import ml_dtypes
import numpy as np
import pytest

from ttrace.compare.details.value_views import (
    difference_of,
    figures_of,
    parse_slice,
    sliced,
)
from ttrace.errors import UsageError


def test_figures():
    values = np.array([[3, 0, -4], [np.nan, np.inf, -np.inf]], np.float32)
    found = figures_of(values)
    assert (found.num_elements, found.norm, found.mean) == (6, 5.0, -1 / 3)
    assert (found.smallest, found.largest) == (-4.0, 3.0)
    assert (found.num_zero, found.num_nan, found.num_inf) == (1, 1, 2)


@pytest.mark.parametrize(
    "dtype", [bool, np.int64, np.float16, ml_dtypes.bfloat16, np.complex64]
)
def test_every_dtype(dtype):
    found = figures_of(np.ones(4, dtype))
    assert (found.norm, found.mean, found.largest) == (2.0, 1.0, 1.0)
    assert difference_of(np.ones(4, dtype), np.zeros(4, dtype)).rel_err == 1.0


def test_nothing_finite():
    found = figures_of(np.full(2, np.nan))
    assert math.isnan(found.mean) and math.isnan(found.largest) and found.num_nan == 2


def test_difference():
    reference = np.array([[3.0, 4.0], [0.0, 0.0]])
    other = np.array([[3.0, 4.0], [0.0, -0.5]])
    found = difference_of(reference, other)
    assert (found.rel_err, found.num_unequal, found.num_elements) == (0.1, 1, 4)
    assert (found.largest, found.at) == (0.5, (1, 1))
    same = difference_of(np.full(2, np.inf), np.full(2, np.inf))
    assert same.num_unequal == 0 and same.largest == 0
    assert math.isnan(difference_of(reference, other * np.nan).largest)


def test_other_shapes_are_refused():
    with pytest.raises(UsageError, match="cannot be compared one by one") as caught:
        difference_of(np.ones(2), np.ones((1, 2)))
    assert caught.value.got == "[2] and [1, 2]"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0", (0,)),
        ("-1, :", (-1, slice(None))),
        ("1:3,::2", (slice(1, 3), slice(None, None, 2))),
        (":-1", (slice(None, -1),)),
    ],
)
def test_slices(text, parts):
    assert parse_slice(text) == parts


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1:2:3:4", "::0", "__import__('x')"])
def test_slices_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="a slice that cannot be read"):
        parse_slice(text)


def test_a_slice_outside_of_the_tensor():
    assert sliced(np.arange(6).reshape(2, 3), (1, slice(0, 2))).tolist() == [3, 4]
    for parts in ((5,), (0, 0, 0)):
        with pytest.raises(UsageError, match="a slice that the tensor does not have"):
            sliced(np.ones((2, 3)), parts)
