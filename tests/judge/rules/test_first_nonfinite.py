"""NaN and infinities of the candidate: where they begin, what they are no sign of."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

VALUES = np.arange(1, 9, dtype=np.float32)
STEP = np.float32(0.1)
NAN = np.full(8, np.nan, np.float32)
SOME = np.where(np.arange(8) < 3, np.float32(np.nan), VALUES)
INFINITE = np.where(np.arange(8) < 2, np.float32(np.inf), VALUES)
INPUT = "step0/mb0/a/input/0"
OUTPUT = "step0/mb0/a/output/0"
NEXT = "step0/mb0/b/output/0"
PARAM = "step0/a/param/weight"
GRADIENT, LATER_GRADIENT = (f"step{i}/a/main_grad/weight" for i in range(2))
UPDATED, LATER = (f"step{i}/a/updated_param/weight" for i in range(2))
RATE = "step0/@root/learning_rate/group0"


def diagnoses(reference, candidate):
    traces = memory_trace(reference), memory_trace(candidate)
    report = compare_traces(*traces, load_backend("numpy"))
    return {found.code: found.sentence for found in report.diagnosis}


def test_where_it_begins():
    reference = {INPUT: VALUES, OUTPUT: VALUES, NEXT: VALUES}
    found = diagnoses(reference, {INPUT: VALUES, OUTPUT: SOME, NEXT: NAN})
    assert found["first_nonfinite"] == (
        "of all that was compared, the candidate's first NaN is in output 0 of a (step "
        "0, micro-batch 0), 3 of 8 elements (the first at [0]), and the reference's "
        "is finite; its input is finite: look there for a division by zero, a log or "
        "sqrt of what is not positive, an overflow of the dtype, an index out of "
        "range, or memory that nothing was written to. 1 tensor behind it may follow "
        "from it"
    )


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        ({INPUT: VALUES, OUTPUT: INFINITE}, "first infinity is in output 0 of a"),
        ({INPUT: VALUES + 1, OUTPUT: SOME}, "its input is finite, but not the refer"),
        ({INPUT: SOME, OUTPUT: SOME}, "finite: look there"),
    ],
)
def test_what_is_said_of_what_it_was_given(candidate, says):
    found = diagnoses({INPUT: VALUES, OUTPUT: VALUES}, candidate)
    assert says in found["first_nonfinite"]


def test_not_of_what_the_reference_has_too():
    assert "first_nonfinite" not in diagnoses({OUTPUT: SOME}, {OUTPUT: NAN})


def test_parameters_that_are_nan_before_and_after_were_not_left_as_they_were():
    reference = {
        PARAM: VALUES,
        GRADIENT: VALUES,
        UPDATED: VALUES - STEP,
        LATER_GRADIENT: VALUES,
        LATER: VALUES - 2 * STEP,
    }
    candidate = {PARAM: VALUES} | dict.fromkeys(
        (GRADIENT, UPDATED, LATER_GRADIENT, LATER), NAN
    )
    found = diagnoses(reference, candidate)
    assert list(found) == ["first_nonfinite"]
    assert (
        "NaN is in main_grad weight of a (step 0), 8 of 8" in found["first_nonfinite"]
    )


def test_a_gradient_of_nan_and_zeros_is_not_zero():
    """The optimizer may well hold the parameter, and a guard may skip the step."""
    gradient = np.where(np.arange(8) < 3, np.float32(np.nan), np.float32(0))
    reference = {PARAM: VALUES, GRADIENT: VALUES, UPDATED: VALUES - STEP}
    candidate = {PARAM: VALUES, GRADIENT: gradient, UPDATED: VALUES}
    found = diagnoses(reference, candidate)
    assert list(found) == ["first_nonfinite"]


def test_a_gradient_of_nan_has_arrived():
    """What is there of the step is not missing where micro-batches were not seen."""
    each = GRADIENT.replace("step0", "step0/mb0").replace("main", "param")
    reference = {PARAM: VALUES, each: VALUES, GRADIENT: VALUES}
    assert "no_gradient" not in diagnoses(reference, {PARAM: VALUES, GRADIENT: NAN})


def test_a_learning_rate_of_nan_is_not_zero():
    rate = np.array([0.1], np.float32)
    reference = {PARAM: VALUES, GRADIENT: VALUES, RATE: rate, UPDATED: VALUES - STEP}
    candidate = {**reference, RATE: rate * np.float32(np.nan), UPDATED: VALUES}
    assert "learning rate" not in diagnoses(reference, candidate)["never_updated"]
