"""Copies that nobody would miss: ranks that recorded nothing where others did."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import MESH, MemoryTrace, Tensor, memory_trace
from tests.judge.verdicts.test_tensors import verdict_of
from ttrace.compare.missing_replicas import ranks_missing_replicas, uniform_groups
from ttrace.judge.verdicts.verdict import Status

ID = "step0/mb0/a/output/0"
GRADIENT = "step0/a/main_grad/weight"
ONES = np.ones(8, np.float32)


def trace(
    holders: tuple[int, ...],
    *,
    uniform: tuple[str, ...] = ("tp",),
    tensor_id: str = ID,
    dims: str = "x",
    **fields,
) -> MemoryTrace:
    """A trace of ranks ``dp2 x tp2``; other tensors are there on all of them."""
    tensors = {tensor_id: Tensor(full=ONES, dims=dims, holders=holders)}
    made = memory_trace({**tensors, "step0/a/param/weight": ONES}, SIZES, **fields)
    ranks = tuple(
        replace(info, meshes=(replace(info.mesh(MESH), uniform_axes=uniform),))
        for info in made.info.ranks
    )
    return MemoryTrace(replace(made.info, ranks=ranks), made.arrays)


SIZES = {"dp": 2, "tp": 2}


def found(made: MemoryTrace) -> tuple[int, ...]:
    (record, *_) = made.info.tensors.values()
    return ranks_missing_replicas(record, uniform_groups(made.info))


@pytest.mark.parametrize(
    ("holders", "uniform", "silent"),
    [
        ((0, 1, 2, 3), ("tp",), ()),
        ((0, 1), ("tp",), ()),  # the other micro-batches are those of the other ranks
        ((0,), ("tp",), (1,)),
        ((1, 2), ("tp",), (0, 3)),
        ((3,), ("dp",), (1,)),
        ((3,), ("dp", "tp"), (0, 1, 2)),
        ((0,), (), ()),
    ],
)
def test_what_one_rank_records_all_along_a_uniform_axis_do(holders, uniform, silent):
    assert found(trace(holders, uniform=uniform)) == silent


def test_what_an_optimizer_holds_may_be_cut_along_any_axis():
    assert found(trace((0,), tensor_id=GRADIENT)) == ()


def test_a_rank_that_is_not_recorded_is_not_silent():
    assert found(trace((0,), recorded=[0, 2])) == ()


def test_a_missing_copy_is_unmatched():
    whole = memory_trace({ID: ONES, "step0/a/param/weight": ONES})
    verdict = verdict_of(whole, trace((0,)))
    assert verdict.status is Status.UNMATCHED
    assert verdict.reason == (
        "a replica is missing in the candidate: rank 1 recorded none, where others "
        "that run the same modules did"
    )
    verdict = verdict_of(trace((1, 2)), whole)
    assert verdict.status is Status.UNMATCHED
    assert "missing in the reference: ranks 0, 3 recorded none" in verdict.reason


def test_a_copy_that_a_rank_skipped_is_not_missing():
    whole = memory_trace({ID: ONES, "step0/a/param/weight": ONES})
    skipping = trace((0,), skipped={ID: "handed through"})
    assert verdict_of(whole, skipping).status is Status.PASSED


def test_a_rank_filter_explains_a_missing_copy():
    whole = memory_trace({ID: ONES, "step0/a/param/weight": ONES})
    assert verdict_of(whole, trace((0,), recorded=[0, 1])).status is Status.PASSED


def test_a_missing_part_is_said_to_be_that():
    whole = memory_trace({ID: ONES, "step0/a/param/weight": ONES})
    verdict = verdict_of(whole, trace((0, 2), dims="x[tp]"))
    assert verdict.reason == (
        "4 elements are missing in the candidate: no rank holds them"
    )
