"""States that one run detaches, or carries over, alone."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.reading.carried import carried_from
from ttrace.pipeline import compare_traces

VALUES = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


def chunks(*, detaches: bool = False, off: float = 0.0):
    """Two forwards, the second of which is given the state of the first."""
    tensors = {}
    for number in range(2):
        at = f"step0/mb{number}/rnn"
        tensors[f"{at}/input/0"] = VALUES + np.float32(10 + number)
        if number:
            tensors[f"{at}/input/1"] = VALUES
        tensors[f"{at}/output/0"] = VALUES + np.float32(20 + number)
        tensors[f"{at}/output/1"] = VALUES + np.float32(number)
    for number in reversed(range(2)):
        at = f"step0/mb{number}/rnn"
        tensors[f"{at}/grad_output/0"] = VALUES + np.float32(30 + number)
        if not detaches:
            slot = "grad_input" if number else "grad_output"
            tensors[f"{at}/{slot}/1"] = VALUES + np.float32(40)
        wrong = np.float32(0 if number else off)
        tensors[f"{at}/grad_input/0"] = VALUES + np.float32(50 + number) + wrong
    return memory_trace(tensors, framework="torch")


def said(reference, candidate) -> dict[str, str]:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return {each.code: each.sentence for each in report.diagnosis}


def test_the_candidate_detaches_it():
    found = said(chunks(), chunks(detaches=True, off=1))
    assert found["no_gradient"] == (
        "input 1 of rnn (step 0, micro-batch 1) is its output 1 of micro-batch 0, a "
        "state that is carried over, and a gradient reaches it in the reference only: "
        "2 gradients are only in the reference, first step0/mb1/rnn/grad_input/1. The "
        "candidate detaches the state there: detach it in both runs or in neither"
    )


def test_the_reference_detaches_it():
    found = said(chunks(detaches=True, off=1), chunks())
    assert found["extra_activation_gradient"] == (
        "input 1 of rnn (step 0, micro-batch 1) agrees, and a gradient reaches it in "
        "the candidate only: it is output 1 of micro-batch 0, a state that is carried "
        "over: the reference detaches it and the candidate does not; detach it in both "
        "runs or in neither"
    )


def test_where_no_gradient_is_wrong_nothing_is_said():
    assert "extra_activation_gradient" not in said(chunks(detaches=True), chunks())


def steps(*, carries: bool):
    tensors = {}
    for step in range(2):
        at, off = f"step{step}/mb0/rnn", np.float32(step * carries)
        tensors[f"{at}/input/0"] = VALUES + np.float32(10 + step)
        if carries and step:
            tensors[f"{at}/input/1"] = VALUES
        tensors[f"{at}/output/0"] = VALUES + np.float32(20) + off
        tensors[f"{at}/output/1"] = VALUES + off
    return memory_trace(tensors, framework="torch")


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_one_run_carries_it_over_from_step_to_step(side):
    runs = [steps(carries=side == which) for which in ("reference", "candidate")]
    assert said(*runs)["one_sided_inputs"] == (
        f"rnn is given input 1 in the {side} only (first step1/mb0/rnn/input/1), what "
        "both runs give it agrees, and what it makes of that is the first to differ. "
        f"Input 1 is output 1 of step 0: a state that only the {side} carries over; "
        "carry it over in both runs or in neither"
    )


def test_what_is_constant_may_be_equal_by_chance():
    zeros = {
        f"step0/mb{number}/rnn/{what}": np.zeros_like(VALUES)
        for number, what in enumerate(("output/1", "input/1"))
    }
    given = parse_tensor_id("step0/mb1/rnn/input/1")
    assert carried_from(given, memory_trace(zeros)) is None
