"""Results of collectives against their definition: of every collective."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.factories.collective_traces import Collective, collective_trace
from ttrace.compare.collectives.collective_results import check_collectives

RANKS = (0, 1, 2, 3)
GROUP = (2, 0, 3)
"""In an order that is not that of the numbers."""


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def added(arrays) -> np.ndarray:
    return np.add.reduce(list(arrays))


def by_rank(make, ranks=GROUP) -> dict[int, Any]:
    return {rank: make(rank) for rank in ranks}


def every_collective():
    """One correct collective of each name, on three ranks."""
    a = by_rank(lambda rank: random(6, 2, seed=rank))
    lists = by_rank(lambda rank: [random(2, 2, seed=10 * rank + i) for i in range(3)])
    total = added(a.values())
    rows = {2: (1, 2, 3), 0: (0, 4, 2), 3: (2, 2, 2)}
    places = {rank: place for place, rank in enumerate(GROUP)}

    def given(rank):  # by all_to_all_single: the rows of each, in the group's order
        parts = []
        for sender in GROUP:
            start = sum(rows[sender][: places[rank]])
            parts.append(a[sender][start : start + rows[sender][places[rank]]])
        return np.concatenate(parts)

    yield Collective(
        name="all_reduce",
        reduction="sum",
        operands=a,
        results=by_rank(lambda rank: total),
    )
    yield Collective(
        name="all_reduce",
        reduction="avg",
        operands=a,
        results=by_rank(lambda rank: total / np.float32(3)),
    )
    yield Collective(
        name="all_reduce",
        reduction="max",
        operands=a,
        results=by_rank(lambda rank: np.maximum.reduce(list(a.values()))),
    )
    yield Collective(
        name="all_reduce",
        reduction="product",
        operands=a,
        results=by_rank(lambda rank: np.multiply.reduce(list(a.values()))),
    )
    yield Collective(
        name="reduce", reduction="sum", root=0, operands=a, results={0: total}
    )
    yield Collective(
        name="broadcast", root=3, operands={3: a[3]}, results=by_rank(lambda _: a[3])
    )
    yield Collective(
        name="all_gather_into_tensor",
        operands=a,
        results=by_rank(lambda _: np.concatenate([a[rank] for rank in GROUP])),
    )
    yield Collective(
        name="all_gather",
        operands=a,
        results=by_rank(lambda _: [a[rank] for rank in GROUP]),
    )
    yield Collective(
        name="gather", root=2, operands=a, results={2: [a[rank] for rank in GROUP]}
    )
    yield Collective(
        name="scatter",
        root=2,
        operands={2: lists[2]},
        results=by_rank(lambda rank: lists[2][places[rank]]),
    )
    yield Collective(
        name="reduce_scatter_tensor",
        reduction="sum",
        operands=a,
        results=by_rank(lambda rank: np.split(total, 3)[places[rank]]),
    )
    yield Collective(
        name="reduce_scatter",
        reduction="sum",
        operands=lists,
        results=by_rank(lambda rank: added(lists[r][places[rank]] for r in GROUP)),
    )
    yield Collective(
        name="all_to_all",
        operands=lists,
        results=by_rank(lambda rank: [lists[r][places[rank]] for r in GROUP]),
    )
    yield Collective(
        name="all_to_all_single",
        operands=a,
        operand_splits=rows,
        results=by_rank(given),
        result_splits={},
    )
    yield Collective(
        name="all_to_all_single",
        operands=a,
        results=by_rank(
            lambda rank: np.concatenate(
                [np.split(a[r], 3)[places[rank]] for r in GROUP]
            )
        ),
    )


COLLECTIVES = list(every_collective())


def checked(collective):
    (check,) = check_collectives(
        collective_trace(
            Collective(**{**vars(collective), "group": GROUP}), sizes={"dp": 4}
        )
    )
    return check


@pytest.mark.parametrize("collective", COLLECTIVES, ids=lambda one: one.name)
def test_a_correct_collective_is_what_it_is_defined_to_be(collective):
    check = checked(collective)
    assert not check.wrong and not check.reason
    several = [v for v in collective.results.values()]
    expected = sum(1 if isinstance(v, np.ndarray) else len(v) for v in several)
    assert check.num_checked == expected


@pytest.mark.parametrize("collective", COLLECTIVES, ids=lambda one: one.name)
def test_one_wrong_element_of_one_rank_is_found(collective):
    rank = max(collective.results)
    arrays = collective.results[rank]
    several = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
    bad = several[-1].copy()
    bad[1, 1] += 1e-3
    several[-1] = bad
    results = {**collective.results, rank: several if len(several) > 1 else bad}
    check = checked(Collective(**{**vars(collective), "results": results}))
    (wrong,) = check.wrong
    assert wrong.record.rank == rank
    assert (wrong.num_wrong, wrong.count) == (1, bad.size)
    assert wrong.error == pytest.approx(1e-3, rel=1e-3)
    assert wrong.allowed < 1e-5


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("order", [1, -1])
def test_sums_are_right_in_any_order_and_precision(dtype, order):
    num_ranks, size = 16, 500
    group = tuple(range(num_ranks))
    a = by_rank(lambda rank: random(size, seed=rank).astype(dtype), group)
    total = np.zeros(size, dtype)
    for rank in group[::order]:
        total = (total + a[rank]).astype(dtype)
    whole = Collective(
        name="all_reduce",
        reduction="sum",
        group=group,
        operands=a,
        results=by_rank(lambda _: total, group),
    )
    (check,) = check_collectives(collective_trace(whole, sizes={"dp": num_ranks}))
    assert check.num_checked == num_ranks and not check.wrong
    lacking = (total.astype(np.float64) - a[3].astype(np.float64)).astype(dtype)
    whole.results = {**whole.results, 3: lacking}
    (check,) = check_collectives(collective_trace(whole, sizes={"dp": num_ranks}))
    assert [wrong.record.rank for wrong in check.wrong] == [3]


def test_what_overflows_or_is_no_number_is_no_fault():
    a = {
        0: np.array([6e4, np.nan, np.inf, -np.inf, 1], np.float16),
        1: np.array([6e4, 1.0, 1.0, np.inf, 2], np.float16),
    }
    with np.errstate(all="ignore"):
        total = a[0] + a[1]
    results = {0: total, 1: total}
    one = Collective(name="all_reduce", reduction="sum", operands=a, results=results)
    (check,) = check_collectives(collective_trace(one))
    assert check.num_checked == 2 and not check.wrong
    one.results = {0: total, 1: np.array([np.inf, np.nan, 1, np.nan, np.nan], "f2")}
    (check,) = check_collectives(collective_trace(one))
    (wrong,) = check.wrong
    assert (wrong.record.rank, wrong.num_wrong) == (1, 2)


def test_integers_are_exact_and_wrap_as_theirs_do():
    a = {0: np.array([2**31 - 1, 4], np.int32), 1: np.array([1, 6], np.int32)}
    with np.errstate(all="ignore"):
        total = a[0] + a[1]
    one = Collective(
        name="all_reduce", reduction="sum", operands=a, results={0: total, 1: total}
    )
    (check,) = check_collectives(collective_trace(one))
    assert check.num_checked == 2 and not check.wrong
    one.results = {0: total, 1: total + np.int32(1)}
    (check,) = check_collectives(collective_trace(one))
    assert [wrong.num_wrong for wrong in check.wrong] == [2]


def test_a_result_that_is_the_own_operand_is_known():
    a = {0: random(8, seed=1), 1: random(8, seed=2)}
    one = Collective(
        name="all_reduce",
        reduction="sum",
        operands=a,
        results={0: a[0] + a[1], 1: a[1]},
    )
    (check,) = check_collectives(collective_trace(one))
    (wrong,) = check.wrong
    assert wrong.is_own_operand


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"operands": {0: random(4)}}, "operands of rank 1 were not recorded"),
        ({"reduction": "premul_sum"}, "what premul_sum gives is not known here"),
        (
            {"operands": {0: random(4), 1: random(4).astype(np.float64)}},
            "its operands are of float32 and float64",
        ),
        (
            {"operands": {0: random(5), 1: random(5)}},
            "its result has 4 elements on rank 0, and its operands do not make up so "
            "many",
        ),
        ({"name": "shuffle"}, "what shuffle gives is not known here"),
    ],
)
def test_what_is_not_known_is_not_judged(change, reason):
    one = Collective(
        name="all_reduce",
        reduction="sum",
        operands={0: random(4), 1: random(4)},
        results={0: random(4)},
    )
    one = Collective(**{**vars(one), **change})
    (check,) = check_collectives(collective_trace(one))
    assert check.reason == reason
    assert check.num_checked == 0 and not check.wrong
