"""A state that the reference carries from step to step, and the candidate does not."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
"""Of two outputs and three steps."""
DATA = RNG.normal(size=(3, 4, 6)).astype(np.float32)


def run(given, *, returned=STATES, data=DATA):
    """Steps that are given data and a state, and return two states.

    Args:
        given: The state of each step.
        returned: ``[outputs, steps, ...]``.
        data: ``[steps, ...]``.
    """
    tensors = {}
    for step in range(3):
        at = f"step{step}/mb0/@root"
        tensors[f"{at}/input/0"] = data[step]
        tensors[f"{at}/input/1"] = given[step]
        tensors[f"{at}/output/0"] = returned[0, step]
        tensors[f"{at}/output/1"] = returned[1, step]
    return memory_trace(tensors)


ZEROS = np.zeros_like(STATES[0])
CARRIED = np.concatenate([ZEROS[:1], STATES[0, :2]])
SWAPPED = np.concatenate([ZEROS[:1], STATES[1, :2]])


def compare(candidate, reference=None):
    reference = reference or run(CARRIED)
    return compare_traces(reference, candidate, load_backend("numpy"))


@pytest.mark.parametrize(
    "given, instead",
    [
        (ZEROS, "gives zeros"),
        (ZEROS + np.float32(0.5) * (np.arange(3) > 0)[:, None, None], "gives 0.5 in"),
        (SWAPPED, "gives what it returned as output 1 of step 0"),
        (np.concatenate([ZEROS[:1], DATA[:2, :, :5]]), "gives none of its own outputs"),
    ],
)
def test_a_state_that_is_not_carried_is_a_divergence(given, instead):
    report = compare(run(given))
    assert report.verdict == "diverged"
    assert report.summary.endswith("it is output 0 of step 0, carried over.")
    (found,) = [d for d in report.diagnosis if d.code == "carried_input"]
    assert found.sentence.startswith(
        "input 1 of @root (step1/mb0/@root/input/1) is output 0 of step 0 in the "
        "reference, to the bit, and that output agrees: the reference carries it over."
    )
    assert instead in found.sentence
    assert "wiring" not in {each.code for each in report.diagnosis}


def test_other_data_remain_another_set_up():
    report = compare(run(CARRIED, data=DATA + np.float32(1)))
    assert report.verdict == "error" and report.error_kind == "setup"
    later = np.concatenate([DATA[:1], DATA[1:] + np.float32(1)])
    report = compare(run(CARRIED, data=later))
    assert report.verdict == "error" and report.error_kind == "setup"


def test_a_state_that_no_run_returned_is_given():
    given = RNG.normal(size=CARRIED.shape).astype(np.float32)
    report = compare(run(given + np.float32(1)), run(given))
    assert report.verdict == "error" and report.error_kind == "setup"
