"""Numbers of micro-batches and ranks that a factor may be."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.ir.layout import Mesh
from ttrace.ir.trace import TraceInfo
from ttrace.judge.runs.run_numbers import RunNumber, number_sentence, run_numbers
from ttrace.pipeline import compare

VALUES = np.random.default_rng(0).normal(size=64).astype(np.float32)


def run(num_microbatches, sizes=None, factor=1.0, **options):
    names = [
        f"step{step}/mb{number}/a/grad_output/0"
        for step in range(2)
        for number in range(num_microbatches)
    ]
    return memory_trace(
        {name: VALUES * np.float32(factor) for name in names}, sizes, **options
    )


def numbers(*runs):
    found = run_numbers(*(run.info for run in runs))
    return {number.what: number.value for number in found}


def test_numbers_of_both_runs():
    assert numbers(run(4), run(4, {"dp": 2, "tp": 3})) == {
        "the number of ranks along dp": 2,
        "the number of ranks along tp": 3,
        "the number of ranks": 6,
        "the number of micro-batches of a step": 4,
    }


def test_numbers_that_are_not_the_same_in_both_runs():
    assert numbers(run(1, {"dp": 2}), run(3, {"dp": 4})) == {
        "the number of ranks along dp of the candidate": 4,
        "the number of ranks along dp of the reference": 2,
        "the number of micro-batches of a step of the candidate": 3,
    }


def test_micro_batches_that_each_rank_runs():
    halves = [Tensor(full=VALUES, holders=(number % 2,)) for number in range(4)]
    names = [f"step0/mb{number}/a/grad_output/0" for number in range(4)]
    shared_out = memory_trace(dict(zip(names, halves, strict=True)), {"dp": 2})
    assert numbers(run(4), shared_out) == {
        "the number of ranks along dp": 2,
        "the number of micro-batches of a step": 4,
        "the number of micro-batches that each rank runs in a step": 2,
    }


def test_an_axis_of_two_sizes_is_named_with_its_mesh():
    meshes = [
        Mesh(name=name, sizes={"tp": size}, coords={"tp": 0})
        for name, size in (("dense", 2), ("expert", 4))
    ]
    info = replace(run(1).info.ranks[0], meshes=tuple(meshes), world_size=4)
    found = run_numbers(run(1).info, TraceInfo(ranks=(info,), tensors={}, skipped={}))
    assert {number.what: number.value for number in found} == {
        "the number of ranks along tp of the mesh dense": 2,
        "the number of ranks along tp of the mesh expert": 4,
    }


def test_a_factor_is_told_to_be_the_number_that_it_is():
    report = compare(run(4), run(4, {"tp": 2}, factor=4))
    (found,) = report.diagnosis
    assert found.sentence == (
        "8 tensors (grad_output) are 4 times the reference: 4 is the number of "
        "micro-batches of a step; look at what is divided by it, or summed"
    )


def test_micro_batches_that_are_not_all_recorded_are_not_counted():
    capture = {"microbatches": "0-1"}
    assert numbers(run(4, capture=capture), run(4, {"tp": 2}, recorded=[0])) == {
        "the number of ranks along tp": 2
    }


@pytest.mark.parametrize(
    ("factor", "sentence"),
    [
        (4.0, ": 4 is the number of apples; look at what is divided by it, or summed"),
        (
            -1 / 4.0001,
            ": 4 is the number of apples; look at what is divided by it, or summed",
        ),
        (
            0.5,
            ": 2 is the number of pears and the number of plums; look at what is "
            "divided by one of them, or summed",
        ),
        (4.1, ""),
        (0.0, ""),
    ],
)
def test_only_what_fits_is_named(factor, sentence):
    values = {"apples": 4, "pears": 2, "plums": 2}
    given = [
        RunNumber(value=value, what=f"the number of {what}")
        for what, value in values.items()
    ]
    assert number_sentence(factor, given) == sentence


@pytest.mark.parametrize(
    "kind, sizes, is_named",
    [
        ("output", {"dp": 2}, False),
        ("grad_output", {"dp": 2}, True),
        ("output", {"tp": 2}, True),
    ],
)
def test_numbers_of_samples_act_on_no_output(kind, sizes, is_named):
    """Ranks of tp hold the same micro-batches, those of dp have their own."""
    names = [f"step0/mb{number}/a/{kind}/0" for number in range(2)]
    holders = [(number,) if "dp" in sizes else (0, 1) for number in range(2)]
    halved = [Tensor(full=VALUES / 2, holders=ranks) for ranks in holders]
    candidate = memory_trace(dict(zip(names, halved, strict=True)), sizes)
    (found,) = compare(memory_trace(dict.fromkeys(names, VALUES)), candidate).diagnosis
    (axis,) = sizes
    assert (f"2 is the number of ranks along {axis}" in found.sentence) == is_named
    of_step = "the number of micro-batches of a step" in found.sentence
    assert of_step == (kind == "grad_output")
