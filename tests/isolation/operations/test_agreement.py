"""When what ranks hold is one value of the reference, and when it is not."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.operation_graphs import CALL
from ttrace.isolation.operations.agreement import block_form, forms_agree, forms_of

WHOLE: np.ndarray = np.random.default_rng(0).standard_normal((4, 6, 8))


def agree(
    parts, reference: np.ndarray = WHOLE, *, adds_up=False, tolerance=1e-9
) -> bool:
    held = {(CALL, rank): np.asarray(part) for rank, part in enumerate(parts)}
    axes = [{holder: ("all",) for holder in held}] if adds_up else []
    own = forms_of(held, axes)
    (theirs,) = forms_of({(CALL, 0): reference})
    return any(forms_agree(form, theirs, tolerance) for form in own)


@pytest.mark.parametrize(
    "parts",
    [
        [WHOLE],
        [WHOLE, WHOLE + 1e-12],
        np.split(WHOLE, 2, axis=0),
        np.split(WHOLE, 2, axis=2),
        [b for a in np.split(WHOLE, 2, axis=0) for b in np.split(a, 2, axis=1)],
        [WHOLE[:2], WHOLE[2:], WHOLE[:2], WHOLE[2:]],
        [WHOLE.transpose(1, 0, 2)],
        [WHOLE.reshape(24, 8)],
        [WHOLE.reshape(4, 1, 6, 8)],
        [part.reshape(24, 4) for part in np.split(WHOLE, 2, axis=2)],
        [part.transpose(1, 0, 2).reshape(24, 4) for part in np.split(WHOLE, 2, axis=2)],
        [part.reshape(12, 8) for part in np.split(WHOLE, 2, axis=1)],
        [part.reshape(4, 6, 2, 2) for part in np.split(WHOLE, 2, axis=2)],
        [WHOLE.ravel()],
        [np.concatenate((WHOLE[r : r + 1], WHOLE[3 - r : 4 - r])) for r in range(2)],
    ],
)
def test_layouts_of_a_value(parts):
    assert agree(parts)


@pytest.mark.parametrize(
    "parts",
    [
        [WHOLE + 1e-3],
        [WHOLE, WHOLE + 1e-3],
        [WHOLE[:2]],
        [WHOLE[:2], WHOLE[:2]],
        [np.roll(WHOLE, 1, axis=0)],
        [WHOLE[:, ::-1]],
        [WHOLE[:2], WHOLE[2:] * -1],
        [WHOLE.reshape(6, 4, 8)],
        [WHOLE / 2, WHOLE / 2],
    ],
)
def test_what_is_not_the_value(parts):
    assert not agree(parts)


def test_dims_of_a_square_are_not_exchanged():
    square = WHOLE[0, :4, :4]
    assert agree([square], square) and not agree([square.T], square)


def test_blocks_of_a_dim_that_was_merged():
    """Samples and heads as one dim, the heads of which are cut over ranks."""
    merged = WHOLE.reshape(24, 8)
    assert agree([part.reshape(12, 8) for part in np.split(WHOLE, 2, axis=1)], merged)
    assert agree([part.reshape(8, 8) for part in np.split(WHOLE, 3, axis=1)], merged)


def test_heads_that_are_repeated_one_by_one_are_not_all_of_them_in_a_row():
    each = np.repeat(WHOLE[:, :, None], 2, axis=2)  # [4, 6, 2, 8]
    tiled = np.tile(WHOLE, (1, 2, 1))
    assert not agree([tiled], each)
    assert agree([np.repeat(WHOLE, 2, axis=1)], each)


def test_a_block_that_one_rank_has():
    (whole,) = forms_of({(CALL, 0): WHOLE})
    assert forms_agree(block_form(WHOLE[:, 3:]), whole, 1e-9)
    assert forms_agree(block_form(WHOLE), whole, 1e-9)
    assert not forms_agree(block_form(WHOLE[:, 2:5]), whole, 1e-9)


def test_sums_over_ranks():
    rng = np.random.default_rng(1)
    part = rng.standard_normal(WHOLE.shape)
    assert agree([part, WHOLE - part], adds_up=True)
    assert not agree([part, WHOLE - part])
    assert not agree([part, WHOLE], adds_up=True)
    # Replicas that are half of it are no parts of a sum.
    assert not agree([WHOLE / 2, WHOLE / 2], adds_up=True)


def test_values_that_are_no_finite_numbers_stay_in_their_places():
    masked = WHOLE.copy()
    masked[0, 0, :3] = -np.inf
    other = WHOLE.copy()
    other[0, 0, 1:4] = -np.inf
    assert agree([masked], masked) and not agree([other], masked)


def test_truth_values_and_whole_numbers_are_exact():
    flags: np.ndarray = WHOLE > 0
    assert agree([flags], flags) and not agree([~flags], flags)
    numbers: np.ndarray = np.arange(24)
    assert agree(np.split(numbers, 2), numbers)
    assert not agree([numbers + 1], numbers, tolerance=1.0)


def test_bfloat16_is_a_floating_point_number():
    rounded: np.ndarray = WHOLE.astype(ml_dtypes.bfloat16)
    assert agree([rounded], tolerance=0.01)
    assert agree(np.split(rounded, 2), tolerance=0.01)
    larger = (WHOLE * 1.5).astype(ml_dtypes.bfloat16)
    assert not agree([larger], tolerance=0.01)


def test_another_dtype_agrees_within_the_tolerance():
    assert agree([WHOLE.astype(np.float32)], tolerance=1e-6)
    assert not agree([WHOLE.astype(np.float16)], tolerance=1e-6)
