"""Rows whose order depends on data: random orders and subsets over 1 to 8 ranks."""

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from tests.factories.routed_traces import (
    FULL,
    ID,
    INDEX,
    NUM_POSITIONS,
    Held,
    routed,
    sent,
)
from tests.factories.traces import MemoryTrace, Tensor, memory_trace
from ttrace.compare import rows as rows_module
from ttrace.compare.align import align
from ttrace.compare.backend import load_backend
from ttrace.compare.execute import run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.errors import LayoutError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.judge.verdicts.replicas import check_replicas

USES = ("h", "h[tp]", "h partial[tp]")
"""What the ranks along tp hold of a row: copies, columns, partials."""

MESHES = [
    {"dp": dp, "tp": tp}
    for dp, tp in itertools.product((1, 2, 3, 4, 8), (1, 2, 4))
    if dp * tp <= 8
]


def compare(reference, candidate, backend="numpy"):
    alignment = align(reference.info, candidate.info)
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    (result,) = run_plan(plan, reference, candidate, load_backend(backend))
    return result


def drawn(draw: random.Random, num_ranks: int, positions: Sequence[int]) -> Held:
    """Every position on one or two ranks, in any order, with some padding."""
    held: dict[int, list[int]] = {coord: [] for coord in range(num_ranks)}
    for position in positions:
        for coord in draw.sample(range(num_ranks), min(num_ranks, draw.choice((1, 2)))):
            held[coord].append(position)
    for rows in held.values():
        rows += [-1] * draw.randrange(3)
        draw.shuffle(rows)
    return held


def cases():
    for (i, sizes), columns in itertools.product(enumerate(MESHES), USES):
        if columns == "h" or sizes["tp"] > 1:
            name = f"dp{sizes['dp']}-tp{sizes['tp']}-{columns}"
            yield pytest.param(i, sizes, columns, id=name)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_ELEMENTS", 12)


@pytest.mark.parametrize(("seed", "sizes", "columns"), list(cases()))
def test_any_order_on_any_ranks(seed, sizes, columns):
    draw = random.Random(seed)
    positions = draw.sample(range(NUM_POSITIONS), 17)
    other_sizes, other_columns = draw.choice(MESHES), draw.choice(USES)
    if other_sizes["tp"] == 1:
        other_columns = "h"
    held = drawn(draw, sizes["dp"], positions)
    reference = routed(
        drawn(draw, other_sizes["dp"], positions), other_sizes, other_columns
    )
    candidate = routed(held, sizes, columns)

    result = compare(reference, candidate)
    assert (result.stats.count, result.stats.num_unequal) == (17 * 4, 0)
    assert result.rows is not None
    assert result.rows.agree and result.rows.num_common == 17
    num_copies = sum(len([p for p in rows if p >= 0]) for rows in held.values()) - 17
    if columns == "h":
        num_copies = (num_copies + 17) * sizes["tp"] - 17
    copied = result.candidate_replicas
    assert sum(replica.stats.count for replica in copied) == num_copies * 4
    assert all(replica.is_exact for replica in copied)

    # One element of the copy that stands for its row, then of another copy.
    rank, row = draw.choice(
        [
            (rank, row)
            for rank in range(len(candidate.info.ranks))
            for row, position in enumerate(candidate.arrays[rank, INDEX])
            if position >= 0
        ]
    )
    position = int(candidate.arrays[rank, INDEX][row])
    candidate.arrays[rank, ID][row, 0] += 1000
    result = compare(reference, candidate)
    is_seen = result.stats.num_unequal == 1
    if is_seen:
        assert result.max_abs_diff_at is not None
        assert result.max_abs_diff_at[0] == position
        assert result.stats.max_abs_diff == 1000
    differing = [r for r in result.candidate_replicas if not r.is_exact]
    assert is_seen or [replica.rank for replica in differing] == [rank]


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_token_that_is_routed_differently(backend):
    reference = routed({0: [3, 1, 5, 7]}, {"dp": 1, "tp": 1})
    candidate = routed({0: [5, 3], 1: [7, 2]}, {"dp": 2, "tp": 1})
    result = compare(reference, candidate, backend)
    rows = result.rows
    assert rows is not None and not rows.agree
    assert (rows.num_common, rows.first_position) == (3, 1)
    assert (rows.num_reference_only, rows.num_candidate_only) == (1, 1)
    # Each of the two counts as zeros in the run that lacks it.
    assert (result.stats.count, result.stats.num_unequal) == (20, 8)
    alone = FULL[[1, 2]]
    assert result.stats.difference_norm == pytest.approx(np.linalg.norm(alone))
    assert result.max_abs_diff_at is not None
    at = (1 + alone.max(axis=1).argmax(), alone.max(axis=0).argmax())
    assert result.max_abs_diff_at == at


def test_scales_of_rows_that_only_one_run_has():
    reference = routed({0: [3]}, {"dp": 1, "tp": 1})
    candidate = routed({0: [3, 5]}, {"dp": 1, "tp": 1}, scale=2.0)
    result = compare(reference, candidate)
    assert result.stats.difference_norm == pytest.approx(np.linalg.norm(FULL[5]))


def test_ranks_that_were_left_out_say_nothing_about_the_other_rows():
    reference = routed({0: [3, 1]}, {"dp": 1, "tp": 1})
    candidate = routed({0: [3], 1: [1]}, {"dp": 2, "tp": 1}, recorded=(0,))
    result = compare(reference, candidate)
    assert (result.stats.count, result.stats.num_unequal) == (4, 0)


def test_rows_that_other_ranks_numbered():
    start = 3 * NUM_POSITIONS
    numbers = {0: [5, start + 7, start + 2], 1: [start + 9, start + 24, start + 1]}
    reference = routed({0: [1, 2, 7, 9]}, {"dp": 1, "tp": 1})
    for order in ((0, 1), (1, 0)):
        result = compare(reference, sent(numbers, order))
        assert (result.stats.count, result.stats.num_unequal) == (16, 0)
        assert result.rows is not None and result.rows.agree


def test_a_rank_that_got_other_rows_than_were_sent():
    start = 3 * NUM_POSITIONS
    reference = routed({0: [2, 7]}, {"dp": 1, "tp": 1})
    candidate = sent({0: [start + 7, start + 2]}, (0,), num_rows=1)
    rows = compare(reference, candidate).rows
    assert rows is not None
    assert rows.contradiction == "rank 0 has 1 rows where 2 were sent"


def test_numbers_that_are_missing():
    reference = routed({0: [2, 7]}, {"dp": 1, "tp": 1})
    candidate = sent({0: [], 1: [3 * NUM_POSITIONS]}, (0, 1))
    index = parse_tensor_id(INDEX)
    tensors = {**candidate.info.tensors}
    tensors[index] = TensorRecord(id=index, shards=tensors[index].shards[:1])
    info = TraceInfo(ranks=candidate.info.ranks, tensors=tensors, skipped={})
    rows = compare(reference, MemoryTrace(info, candidate.arrays)).rows
    assert rows is not None
    assert rows.contradiction == "rank 1 has not recorded which rows it sent"


def test_rows_against_blocks():
    reference = memory_trace({ID: Tensor(full=FULL, dims="x[dp] h")}, {"dp": 2})
    order = random.Random(0).sample(range(NUM_POSITIONS), NUM_POSITIONS)
    result = compare(reference, routed({0: order}, {"dp": 1, "tp": 2}, "h[tp]"))
    assert (result.stats.count, result.stats.num_unequal) == (FULL.size, 0)
    assert result.rows is not None and result.rows.agree


def test_columns_that_no_rank_holds():
    reference = routed({0: [4, 2]}, {"dp": 1, "tp": 1})
    candidate = routed({0: [2, 4]}, {"dp": 1, "tp": 2}, "h[tp]")
    id_ = parse_tensor_id(ID)
    tensors = {**candidate.info.tensors}
    tensors[id_] = TensorRecord(id=id_, shards=tensors[id_].shards[:1])
    info = TraceInfo(ranks=candidate.info.ranks, tensors=tensors, skipped={})
    result = compare(reference, MemoryTrace(info, candidate.arrays))
    assert result.rows is not None
    assert (result.rows.num_uncovered, result.stats.count) == (4, 4)


def test_copies_within_one_run():
    trace = routed({0: [4, 2, -1], 1: [2, 9]}, {"dp": 2, "tp": 1})
    (found,) = check_replicas(trace, load_backend("numpy"))
    assert found.agrees
    assert [replica.stats.count for replica in found.results] == [4]
    trace.arrays[1, ID][0] = 0
    (found,) = check_replicas(trace, load_backend("numpy"))
    assert not found.agrees


def test_a_position_twice_on_one_rank():
    good = routed({0: [1, 2]}, {"dp": 1, "tp": 1})
    with pytest.raises(LayoutError) as error:
        compare(good, routed({0: [2, 1, 2]}, {"dp": 1, "tp": 1}))
    assert str(error.value) == (
        "a rank has several rows of one position\n"
        f"  where:    {ID}, rank 0\n"
        "  expected: every position at most once\n"
        "  got:      position 2 again\n"
        "  to do:    correct the index that the frontend gives this tensor"
    )


def test_a_position_outside_the_tensor():
    good = routed({0: [1, 2]}, {"dp": 1, "tp": 1})
    bad = routed({0: [1, 2]}, {"dp": 1, "tp": 1})
    bad.arrays[0, INDEX] = np.array([1, NUM_POSITIONS])
    with pytest.raises(LayoutError, match=r"expected: positions 0\.\.23\n.*1\.\.24"):
        compare(good, bad)


def test_addends_of_different_rows():
    good = routed({0: [1, 2]}, {"dp": 1, "tp": 1})
    bad = routed({0: [1, 2]}, {"dp": 1, "tp": 2}, "h partial[tp]")
    bad.arrays[1, INDEX] = np.array([1, 3])
    with pytest.raises(LayoutError) as error:
        compare(good, bad)
    assert "expected: the rows of rank 0\n  got:      other rows on rank 1" in str(
        error.value
    )


def test_an_addend_that_is_missing():
    reference = routed({0: [4, 2]}, {"dp": 1, "tp": 1})
    candidate = routed({0: [4, 2]}, {"dp": 1, "tp": 2}, "h partial[tp]")
    id_ = parse_tensor_id(ID)
    tensors = {**candidate.info.tensors}
    tensors[id_] = TensorRecord(id=id_, shards=tensors[id_].shards[:1])
    info = TraceInfo(ranks=candidate.info.ranks, tensors=tensors, skipped={})
    result = compare(reference, MemoryTrace(info, candidate.arrays))
    assert result.plan.candidate_cover.missing_partials
    assert result.stats.count == 0
