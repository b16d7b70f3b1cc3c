"""The reference's values in the candidate's layouts, names and micro-batches."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import Tensor, Tensors, memory_trace, write_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.isolation.rewrites import plan_rewrites, write_rewrites
from ttrace.lining_up import line_up
from ttrace.mapping.map_file import parse_map
from ttrace.recording.rewrites import RankRewrites, misfit
from ttrace.store.reader import open_trace

FULL = np.arange(48, dtype=np.float32).reshape(8, 6)
INPUT = "step0/mb0/a/input/0"
GRADIENT = "step0/mb0/a/grad_output/0"


@pytest.fixture
def rewritten(tmp_path):
    """Writes the values of a step; what was written, by rank and id."""

    def rewritten(reference, candidate, map_text: str | None = None, step: int = 0):
        map_file = None if map_text is None else parse_map(map_text, Path("m.toml"))
        lined = line_up(reference, candidate, map_file=map_file)
        rewrites = write_rewrites(
            plan_rewrites(lined, step), lined, candidate, tmp_path / "values"
        )
        trace = open_trace(tmp_path / "values")
        held = {
            (shard.rank, str(id_)): trace.load(shard)
            for id_, record in trace.info.tensors.items()
            for shard in record.shards
        }
        return rewrites, held

    return rewritten


def other(tensors: Tensors) -> Tensors:
    """The same tensors, with values that must not come through."""
    return {
        text: Tensor(full=-t.full, dims=t.dims, scale=t.scale)
        if isinstance(t, Tensor)
        else -t
        for text, t in tensors.items()
    }


@pytest.mark.parametrize("dims", ["x[tp] y", "x[tp:zigzag] y", "x y"])
def test_each_rank_gets_its_part(rewritten, dims):
    tensors = {INPUT: Tensor(full=FULL, dims=dims)}
    expected = memory_trace(tensors, {"tp": 2})
    rewrites, held = rewritten(
        memory_trace({INPUT: FULL}), memory_trace(other(tensors), {"tp": 2})
    )
    for shard in expected.info.tensors[parse_tensor_id(INPUT)].shards:
        np.testing.assert_array_equal(held[shard.rank, INPUT], expected.load(shard))
    id_ = parse_tensor_id(INPUT)
    assert rewrites.shards == {id_: frozenset({(id_, 0), (id_, 1)})}
    assert not rewrites.left_out


def test_a_sharded_reference_and_a_scale_of_either(rewritten):
    reference = {GRADIENT: Tensor(full=FULL, dims="x y[tp]", scale=2.0)}
    candidate = {GRADIENT: Tensor(full=FULL, dims="x[tp] y", scale=8.0)}
    _, held = rewritten(
        memory_trace(reference, {"tp": 3}), memory_trace(other(candidate), {"tp": 2})
    )
    np.testing.assert_array_equal(held[1, GRADIENT], 8 * FULL[4:])


def test_of_a_pending_sum_each_rank_gets_an_equal_part(rewritten):
    partial = {INPUT: Tensor(full=FULL, dims="x y partial[tp]")}
    _, held = rewritten(
        memory_trace({INPUT: FULL}), memory_trace(other(partial), {"tp": 2})
    )
    for rank in range(2):
        np.testing.assert_array_equal(held[rank, INPUT], FULL / 2)


def test_values_are_cast_and_kinds_of_numbers_are_not(rewritten):
    indices = "step0/mb0/b/input/0"
    reference = {INPUT: FULL / 7, indices: FULL.astype(np.int64)}
    candidate = {
        INPUT: FULL.astype(ml_dtypes.bfloat16),
        indices: FULL.astype(np.int32) + 1,
        "step0/mb0/c/input/mask": FULL > 3,
    }
    reference["step0/mb0/c/input/mask"] = FULL
    rewrites, held = rewritten(memory_trace(reference), memory_trace(candidate))
    assert held[0, INPUT].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(held[0, INPUT], (FULL / 7).astype(ml_dtypes.bfloat16))
    assert held[0, indices].dtype == np.int32
    np.testing.assert_array_equal(held[0, indices], FULL)
    assert rewrites.left_out == {
        "it holds truth values, and floating-point numbers in the reference": 1
    }


def test_a_map_is_gone_through_the_other_way(rewritten):
    """Other names, transposed dims, two tensors of the reference out of one."""
    text = """
[[tensor]]
reference = "a.{i}/input/0"
candidate = "b/input/0"
transform = "(i x) y -> y x"
sizes = { x = 4 }
"""
    reference = {f"step0/mb0/a.{i}/input/0": FULL[4 * i :][:4].T for i in range(2)}
    given = {"step0/mb0/b/input/0": Tensor(full=FULL, dims="x[tp:zigzag] y")}
    expected = memory_trace(given, {"tp": 2})
    rewrites, held = rewritten(
        memory_trace(reference), memory_trace(other(given), {"tp": 2}), text
    )
    (record,) = expected.info.tensors.values()
    for shard in record.shards:
        np.testing.assert_array_equal(
            held[shard.rank, "step0/mb0/b/input/0"], expected.load(shard)
        )
    assert [str(id_) for id_ in rewrites.shards] == list(reference)
    assert set(rewrites.shards.values()) == {
        frozenset({(record.id, 0), (record.id, 1)})
    }


def test_samples_in_other_micro_batches(rewritten):
    tokens = np.arange(100, 132).reshape(8, 4)
    hidden = np.random.default_rng(0).normal(size=(8, 4, 6)).astype(np.float32)
    reference, candidate = {}, {}
    root = "step0/mb{}/@root/input/0"
    for tensors, size, sign in ((reference, 4, 1), (candidate, 2, -1)):
        for number in range(8 // size):
            rows = slice(number * size, (number + 1) * size)
            tensors[root.format(number)] = tokens[rows]
            tensors[f"step0/mb{number}/a/input/0"] = sign * hidden[rows]
    rewrites, held = rewritten(memory_trace(reference), memory_trace(candidate))
    for number in range(4):
        np.testing.assert_array_equal(
            held[0, f"step0/mb{number}/a/input/0"], hidden[2 * number :][:2]
        )
    id_ = parse_tensor_id("step0/mb1/a/input/0")
    assert {str(held_id) for held_id, _ in rewrites.shards[id_]} == {
        "step0/mb2/a/input/0",
        "step0/mb3/a/input/0",
    }


def test_what_cannot_be_made_is_counted(rewritten):
    reference = {
        INPUT: FULL,
        "step0/mb0/b/input/0": FULL[:4],
        "step0/mb0/d/input/0": FULL,
        "step1/mb0/a/input/0": FULL,
    }
    candidate = {
        INPUT: FULL,
        "step0/mb0/b/input/0": FULL,
        "step0/mb0/c/input/0": FULL,
        "step0/mb0/a/output/0": FULL,
        "step1/mb0/a/input/0": FULL,
    }
    rewrites, held = rewritten(
        memory_trace(reference),
        memory_trace(candidate, skipped={"step0/mb0/d/input/0": "no layout"}),
    )
    assert list(held) == [(0, INPUT)]  # nothing of outputs, or of another step
    assert rewrites.left_out == {
        "it has another shape in the reference": 1,
        "the reference has no such tensor": 1,
        "candidate: no layout": 1,
    }
    # A frontend that numbers calls by how many a micro-batch has knows of all.
    assert RankRewrites(rewrites.folder, 0).recorded() == {
        parse_tensor_id(INPUT): True,
        parse_tensor_id("step0/mb0/b/input/0"): False,
        parse_tensor_id("step0/mb0/c/input/0"): False,
        parse_tensor_id("step0/mb0/d/input/0"): False,
    }


def test_a_value_that_does_not_fit_is_none():
    values = np.zeros((1, 1, 4, 2), np.float32)
    assert misfit((4, 2), "float32", values) is None  # a dim per mesh axis in front
    assert misfit((1, 4, 2), "float32", values) is None
    assert misfit((2, 4, 2), "float32", values) == (
        "its shape is [2, 4, 2], and was [1, 1, 4, 2] in the run before"
    )
    assert misfit((4, 2), "bfloat16", values) == (
        "its dtype is bfloat16, and was float32 in the run before"
    )


def test_a_rank_is_given_its_values_by_id(tmp_path):
    write_trace(
        tmp_path / "values",
        {INPUT: Tensor(full=FULL, dims="x[tp] y"), GRADIENT: FULL},
        {"tp": 2},
    )
    rewrites = RankRewrites(tmp_path / "values", 1)
    id_ = parse_tensor_id(INPUT)
    np.testing.assert_array_equal(rewrites.values_of(id_), FULL[4:])
    again = parse_tensor_id(f"{INPUT}/recompute")
    np.testing.assert_array_equal(rewrites.values_of(again), FULL[4:])
    other = parse_tensor_id("step0/mb0/b/input/0")
    assert rewrites.values_of(other) is None
    assert [rewrites.has_value(i) for i in (id_, again, other)] == [True, True, False]
    rewrites.note_done(id_)
    said = rewrites.statement(1)
    assert said["num_rewritten"] == "1"
    assert GRADIENT in said["not_rewritten"] and INPUT not in said["not_rewritten"]
    assert rewrites.statement(0)["not_rewritten"] == "{}"
