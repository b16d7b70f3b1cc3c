"""Rows of two runs that are the same, but for rounding."""

import numpy as np
import pytest

from ttrace.compare.calls.row_classes import UNKNOWN, classify, sketch

ROWS = np.random.default_rng(0).normal(size=(50, 100))


def classes(*pairs, is_exact=False):
    found = classify(
        (sketch(ours, is_exact=is_exact), sketch(theirs, is_exact=is_exact))
        for ours, theirs in pairs
    )
    return found.reference.tolist(), found.candidate.tolist()


@pytest.mark.parametrize("noise", [0, 1e-7, 1e-4, 1e-2])
def test_rows_are_found_through_rounding(noise):
    order = np.random.default_rng(1).permutation(50)
    errors = np.random.default_rng(2).normal(size=ROWS.shape) * noise
    ours, theirs = classes((ROWS, (ROWS + errors)[order]))
    assert len(set(ours)) == 50
    assert theirs == np.array(ours)[order].tolist()


def test_rows_that_are_much_alike_are_told_by_the_nearest():
    """As behind a norm, where all rows have much in common."""
    alike = 1 + ROWS * 1e-3
    ours, theirs = classes((alike, alike[::-1] * (1 + 1e-6)))
    assert theirs == ours[::-1]


def test_other_rows_are_unknown():
    others = ROWS.copy()
    others[0] *= 1.5
    others[1] = -others[1]
    others[2] = np.nan
    others[3] = 0
    ours, theirs = classes((ROWS, others))
    assert theirs == [UNKNOWN] * 4 + ours[4:]


def test_a_row_between_two_is_neither():
    pair = np.stack([ROWS[0], ROWS[0] + ROWS[1] * 1e-4])
    middle = pair.mean(0, keepdims=True)
    assert classes((pair, middle))[1] == [UNKNOWN]


def test_equal_rows_have_one_number():
    rows = np.concatenate([ROWS[:2], ROWS[:1], np.zeros((2, 100))])
    ours, theirs = classes((rows, rows))
    assert ours == theirs
    assert ours[0] == ours[2] and ours[3] == ours[4]
    assert len(set(ours)) == 3


def test_integers_are_equal_or_not():
    tokens = np.random.default_rng(0).integers(50_000, size=(8, 4096))
    others = tokens.copy()
    others[3, 17] += 1
    ours, theirs = classes((tokens, others), is_exact=True)
    assert theirs == [*ours[:3], UNKNOWN, *ours[4:]]


def test_several_arguments_must_all_agree():
    same = np.ones((50, 3))
    ours, theirs = classes((same, same), (ROWS, ROWS[::-1]))
    assert len(set(ours)) == 50 and theirs == ours[::-1]
    assert set(classes((same, same), (ROWS, -ROWS))[1]) == {UNKNOWN}
