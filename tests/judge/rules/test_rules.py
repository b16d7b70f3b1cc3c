"""Diagnosis: which axis is blamed, which factor is named, and when nothing is said."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.align import align
from ttrace.compare.backend import load_backend
from ttrace.compare.execute import run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.judge.rules.table import diagnose
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.tensors import judge

A, B, C = (f"step0/mb0/{name}/output/0" for name in "abc")
VALUES = np.arange(1, 9, dtype=np.float32)


def diagnoses(reference, candidate):
    alignment = align(reference.info, candidate.info)
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    results = run_plan(plan, reference, candidate, load_backend("numpy"))
    verdicts = judge(
        alignment, results, ToleranceTable(), reference.info, candidate.info
    )
    return {found.code: found for found in diagnose(verdicts, candidate.info)}


def test_nothing_wrong_nothing_said():
    trace = memory_trace({A: VALUES}, {"dp": 2})
    assert diagnoses(trace, trace) == {}


@pytest.mark.parametrize(
    ("wrong_ranks", "axes"),
    [
        ([1, 3], "tp"),  # tp alone: rank 3 differs over both, which says nothing more
        ([2, 3], "dp"),
        ([1, 2], "dp+tp"),
        ([3], "dp+tp"),  # only together
    ],
)
def test_the_axis_over_which_copies_differ(wrong_ranks, axes):
    candidate = memory_trace(
        {A: Tensor(full=VALUES, exact_replicas=True)}, {"dp": 2, "tp": 2}
    )
    for rank in wrong_ranks:
        candidate.arrays[rank, A][0] = 1.5
    found = diagnoses(memory_trace({A: VALUES}), candidate)["replicas_differ"]
    assert found.evidence["axes"] == axes
    assert found.sentence == (
        f"replicas of 1 tensor that must agree over {axes} do not: a reduction over "
        f"{axes} is missing, or runs over the wrong group"
    )
    assert found.tensor_ids == (A,)
    assert found.evidence["largest_spread"] == pytest.approx(
        0.5 / np.linalg.norm(VALUES)
    )


def test_ranks_that_step_with_different_learning_rates():
    rate, updated = "step0/@root/learning_rate/group0", "step0/a/updated_param/weight"
    candidate = memory_trace({rate: VALUES, updated: VALUES}, {"dp": 2})
    for id_ in (rate, updated):
        candidate.arrays[1, id_][0] = 1.5
    reference = memory_trace({rate: VALUES, updated: VALUES})
    assert diagnoses(reference, candidate)["replicas_differ"].sentence == (
        "replicas of 2 tensors that must agree over dp do not: their optimizers step "
        "with different learning rates over dp"
    )


def test_ranks_that_were_given_different_data_explain_what_follows():
    data, output = "step0/mb0/@root/input/x", "step0/mb0/a/output/0"
    candidate = memory_trace({data: VALUES, output: VALUES}, {"tp": 2})
    for id_ in (data, output):
        candidate.arrays[1, id_][0] = 1.5
    found = diagnoses(memory_trace({data: VALUES, output: VALUES}), candidate)
    assert "replicas_differ" not in found


def test_copies_of_the_reference_are_no_diagnosis_of_the_candidate():
    reference = memory_trace({A: VALUES}, {"dp": 2})
    reference.arrays[1, A][0] = 5
    assert diagnoses(reference, memory_trace({A: VALUES})) == {}


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0, -1.0])
def test_a_constant_factor(factor):
    candidate = {
        A: VALUES * np.float32(factor),
        B: VALUES * np.float32(factor),
        C: VALUES,
    }
    found = diagnoses(
        memory_trace({A: VALUES, B: VALUES, C: VALUES}), memory_trace(candidate)
    )["scaled"]
    assert found.sentence == (f"2 tensors (output) are {factor:g} times the reference")
    assert found.evidence == {"factor": factor}
    assert found.tensor_ids == (A, B)


def test_the_most_frequent_factor_is_named():
    candidate = {A: VALUES * 3, B: VALUES * 2, C: VALUES * 2}
    found = diagnoses(
        memory_trace({A: VALUES, B: VALUES, C: VALUES}), memory_trace(candidate)
    )["scaled"]
    assert found.evidence == {"factor": 2.0}


def test_the_first_factor_is_named_where_none_explains_most():
    """Gradients that were clipped while they were still scaled: two factors."""
    other = VALUES[::-1].copy()
    names = [f"step0/mb0/{name}/output/0" for name in "abcde"]
    values = (VALUES * 1024, VALUES / 8, VALUES / 8, other, other)
    reference = memory_trace(dict.fromkeys(names, VALUES))
    candidate = memory_trace(dict(zip(names, values, strict=True)))
    found = diagnoses(reference, candidate)["scaled"]
    assert found.evidence == {"factor": 1024.0}
    assert found.tensor_ids == tuple(names[:1])


def test_what_is_no_factor():
    """Scalars are always a multiple; zeros never; NaN hides the rest."""
    reference = {A: VALUES[:1], B: np.zeros(4, np.float32), C: VALUES}
    with_nan = VALUES * 2
    with_nan[0] = np.nan
    candidate = {A: VALUES[:1] * 2, B: np.ones(4, np.float32), C: with_nan}
    found = diagnoses(memory_trace(reference), memory_trace(candidate))
    assert list(found) == ["first_nonfinite"]


def test_another_direction_is_no_factor():
    candidate = memory_trace({A: VALUES[::-1].copy()})
    assert diagnoses(memory_trace({A: VALUES}), candidate) == {}


def test_long_lists_of_ids_are_cut():
    ids = [f"step0/mb0/m{number}/output/0" for number in range(30)]
    reference = memory_trace(dict.fromkeys(ids, VALUES))
    candidate = memory_trace(dict.fromkeys(ids, VALUES * 2))
    found = diagnoses(reference, candidate)["scaled"]
    assert found.sentence.startswith("30 tensors")
    assert found.tensor_ids == tuple(ids[:20])


def test_a_factor_of_few_that_came_late_explains_nothing():
    """Behind a wrong clip factor, moments of an optimizer are multiples too."""
    other = VALUES[::-1].copy()
    candidate = {A: other, B: other, C: VALUES * 2}
    reference = memory_trace({A: VALUES, B: VALUES, C: VALUES})
    assert diagnoses(reference, memory_trace(candidate)) == {}
    first = {A: VALUES * 2, B: other, C: other}
    assert set(diagnoses(reference, memory_trace(first))) == {"scaled"}
