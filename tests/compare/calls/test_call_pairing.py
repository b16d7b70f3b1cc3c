"""Which calls, or rows of calls, are which; on numbers of rows."""

import time

import numpy as np
import pytest

from ttrace.compare.calls.call_pairing import CallPairing, pair_calls, pair_rows
from ttrace.compare.calls.row_classes import UNKNOWN


def order(reference, candidate) -> dict[int, int] | None:
    found = pair_calls(dict(enumerate(reference)), dict(enumerate(candidate)))
    return None if found is None else found.order


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ([1, 2], [2, 1], {0: 1, 1: 0}),
        ([1, 2, 3], [1, 3, 2], {0: 0, 1: 2, 2: 1}),
        ([1, 2], [1, 1], {0: 0, 1: 1}),
        ([1, 2], [2, 2], {0: 0, 1: 1}),
        ([1, 2, 3], [2, 1, UNKNOWN], {0: 1, 1: 0, 2: 2}),
        ([1, 2, 3], [2, UNKNOWN, 1], None),
        ([1, 2], [UNKNOWN, UNKNOWN], None),
        ([1, 1, 2], [2, 1, 1], {0: 2, 1: 1, 2: 0}),
        ([1, 2, 3], [1, 3], {0: 0, 2: 1}),  # a call is missing
        ([1, 3], [1, 2, 3], {0: 0, 1: 2}),
        ([1, 2, 3], [1, UNKNOWN], None),
    ],
)
def test_calls_are_paired_by_what_they_are_given(reference, candidate, expected):
    assert order(reference, candidate) == expected


def test_calls_that_nothing_tells_apart():
    found = pair_calls({0: 1, 1: 1, 2: 2}, {0: 2, 1: 1, 2: 1})
    assert found is not None and found.repeated == {0, 1}
    found = pair_calls({0: 1, 1: 1, 2: 2, 3: 3}, {0: 1, 1: 1, 2: 3, 3: 2})
    assert found is not None and not found.repeated  # they stay where they are


def rows_of(*calls):
    return {call: np.array(rows) for call, rows in enumerate(calls)}


def places(pairing: CallPairing | None) -> list[tuple[int, int, int, int, int]]:
    assert pairing is not None
    return [
        (ours.call, ours.start, theirs.call, theirs.start, ours.length)
        for ours, theirs in pairing.pairs
    ]


def test_rows_one_behind_the_other():
    found = pair_rows(rows_of([1, 2], [3, 4]), rows_of([1, 2, 3, 4]))
    assert places(found) == [(0, 0, 0, 0, 2), (1, 0, 0, 2, 2)]
    back = pair_rows(rows_of([1, 2, 3, 4]), rows_of([1, 2], [3, 4]))
    assert places(back) == [(0, 0, 0, 0, 2), (0, 2, 1, 0, 2)]


def test_rows_in_turn():
    found = pair_rows(rows_of([1, 2], [3, 4]), rows_of([1, 3, 2, 4]))
    assert places(found) == [
        (0, 0, 0, 0, 1),
        (0, 1, 0, 2, 1),
        (1, 0, 0, 1, 1),
        (1, 1, 0, 3, 1),
    ]
    back = pair_rows(rows_of([1, 3, 2, 4]), rows_of([1, 2], [3, 4]))
    assert [p[2:4] for p in places(back)] == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_in_turn_is_seen_where_a_row_comes_twice():
    """Row 2 of the first call is row 1 of the second one."""
    found = pair_rows(rows_of([1, 2], [2, 4]), rows_of([1, 2, 2, 4]))
    assert found is not None and found.repeated == {0, 1}  # both ways fit
    found = pair_rows(rows_of([1, 2, 5], [2, 4, 6]), rows_of([1, 2, 2, 4, 5, 6]))
    assert found is not None and not found.repeated
    assert [p[3] for p in places(found)] == [0, 2, 4, 1, 3, 5]


def test_the_rest_is_taken_in_order_where_half_is_found():
    found = pair_rows(rows_of([1, 2], [3, 4]), rows_of([1, 2, UNKNOWN, UNKNOWN]))
    assert found is not None and found.is_assumed
    assert places(found) == [(0, 0, 0, 0, 2), (1, 0, 0, 2, 2)]
    again = pair_rows(rows_of([1, 2], [3, 4]), rows_of([1, 2, 1, 2]))
    assert again is not None and again.is_assumed  # the first call's rows twice
    few = rows_of([1, UNKNOWN, UNKNOWN, UNKNOWN])
    assert pair_rows(rows_of([1, 2], [3, 4]), few) is None
    assert pair_rows(rows_of([1, 2], [3, 4]), rows_of([1, 2, 3])) is None


def test_mixed_rows_do_not_keep_their_order():
    rows = rows_of([1, 2, 3], [4, 5, 6])
    for joined, keeps_order in (
        ([4, 5, 6, 1, 2, 3], True),
        ([1, 4, 2, 5, 3, 6], True),
        ([6, 1, 2, 3, 4, 5], False),
    ):
        found = pair_rows(rows, rows_of(joined))
        assert found is not None and found.keeps_order == keeps_order
    assert pair_rows(rows, rows_of([6, 1, 2, 3, 4, 5]), is_usual=True) is None


def test_a_module_inside_that_is_called_twice_in_each_call():
    found = pair_rows(rows_of([1, 2], [3, 4]), rows_of([1, 2, 3, 4]))
    assert found is not None
    assert places(found.nested(2)) == [
        (0, 0, 0, 0, 2),
        (1, 0, 1, 0, 2),
        (2, 0, 0, 2, 2),
        (3, 0, 1, 2, 2),
    ]


def test_the_cost_is_linear_in_calls():
    numbers = np.random.default_rng(0).permutation(100_000)
    start = time.process_time()
    found = pair_calls(
        dict(enumerate(range(100_000))), dict(enumerate(numbers.tolist()))
    )
    rows = pair_rows(rows_of(*numbers.reshape(-1, 2)), rows_of(np.sort(numbers)))
    assert found is not None and rows is not None and len(rows.reference) == 50_000
    assert time.process_time() - start < 20  # all pairs would take hours
