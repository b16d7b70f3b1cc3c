"""Sums of what was reduced before."""

import numpy as np
import pytest

from tests.factories.collective_traces import Collective, collective_trace
from ttrace.compare.collectives.repeated_reductions import repeated_reductions

A = {
    rank: np.random.default_rng(rank).normal(size=(2, 8)).astype(np.float32)
    for rank in range(4)
}


def total_of(operands, group):
    stacked = np.stack([operands[rank] for rank in group])
    return np.asarray(stacked.sum(axis=0))


def summed(operands, number, group=(0, 1), name="all_reduce", reduction="sum"):
    total = total_of(operands, group)
    if name == "reduce_scatter_tensor":
        rows = len(total) // len(group)
        results = {r: total[i * rows :][:rows] for i, r in enumerate(group)}
    else:
        results = same(total, group)
    return Collective(
        name=name,
        reduction=reduction,
        number=number,
        group=group,
        operands={rank: operands[rank] for rank in group},
        results=results,
    )


def same(value: np.ndarray, ranks=(0, 1, 2, 3)) -> dict[int, np.ndarray]:
    return {rank: value for rank in ranks}


def numbers(*collectives, sizes=None):
    trace = collective_trace(*collectives, sizes=sizes)
    return [(r.first.number, r.again.number) for r in repeated_reductions(trace)]


@pytest.mark.parametrize("name", ["all_reduce", "reduce_scatter_tensor"])
def test_what_was_reduced_before(name):
    again = summed(same(A[0] + A[1]), 1, name=name)
    assert numbers(summed(A, 0), again) == [(0, 1)]


def test_over_some_of_the_ranks():
    sizes = {"dp": 2, "tp": 2}
    total = A[0] + A[1] + A[2] + A[3]
    world = Collective(
        name="all_reduce",
        reduction="sum",
        number=7,
        group=(0, 1, 2, 3),
        operands=A,
        results=same(total),
    )
    assert numbers(world, summed(same(total), 0), sizes=sizes) == [(7, 0)]


def test_sums_of_other_values_or_over_other_ranks_are_none():
    sizes = {"dp": 2, "tp": 2}
    over_tp = [summed(A, 0), summed(A, 0, group=(2, 3))]
    halves = {0: A[0] + A[1], 2: A[2] + A[3]}
    over_dp = summed(halves, 1, group=(0, 2))
    assert numbers(*over_tp, over_dp, sizes=sizes) == []
    assert numbers(summed(A, 0), summed(A, 1)) == []
    average = summed(same((A[0] + A[1]) / 2), 1)
    assert numbers(summed(A, 0), average) == []


def test_only_one_rank_hands_it_on():
    again = summed({0: A[0] + A[1], 1: A[1]}, 1)
    assert numbers(summed(A, 0), again) == []


def test_a_maximum_of_it_changes_nothing():
    total = same(A[0] + A[1], (0, 1))
    again = Collective(
        name="all_reduce", reduction="max", number=1, operands=total, results=total
    )
    assert numbers(summed(A, 0), again) == []


@pytest.mark.parametrize(
    "value",
    [np.array([3.0], np.float32), np.full((2, 8), 4.0, np.float32)],
    ids=["few", "equal"],
)
def test_numbers_that_say_little_are_none(value):
    halves = same(value / 2)
    assert numbers(summed(halves, 0), summed(same(value), 1)) == []


def test_a_sum_before_is_none():
    again = summed(same(A[0] + A[1]), 0)
    assert numbers(again, summed(A, 1)) == []
