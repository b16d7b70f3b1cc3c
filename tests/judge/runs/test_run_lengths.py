"""One run has fewer steps, or fewer micro-batches: said once, and nothing else is."""

import numpy as np
import pytest

from tests.factories.traces import CAME_TWICE, MemoryTrace, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.extents import ranges
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

ONES = np.ones(8, np.float32)


def run(steps: int = 1, microbatches: int = 1, **fields) -> MemoryTrace:
    tensors = {}
    for step in range(steps):
        for number in range(microbatches):
            here = f"step{step}/mb{number}"
            tensors[f"{here}/fc/output/0"] = ONES
            tensors[f"{here}/fc/grad_output/0"] = ONES
            tensors[f"{here}/fc/param_grad/weight"] = ONES
        tensors[f"step{step}/fc/main_grad/weight"] = ONES
    return memory_trace(tensors, **fields)


def compared(reference: MemoryTrace, candidate: MemoryTrace) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"))


def test_a_candidate_of_fewer_steps():
    report = compared(run(steps=3), run(steps=2))
    assert report.verdict is Outcome.DIVERGED
    assert report.remarks == (
        "the candidate has steps 0-1, the reference 0-2: let both runs make the same "
        "steps, or compare --steps 0-1",
    )
    assert report.diagnosis == ()
    assert report.summary == (
        "8 compared tensors agree; 4 exist in the reference only, as the candidate has "
        "no step 2."
    )
    reasons = {t.reason for t in report.tensors if t.status == "unmatched"}
    assert reasons == {"only in the reference: the candidate has no step 2"}


def test_a_reference_of_fewer_steps():
    report = compared(run(steps=1), run(steps=2))
    assert report.remarks == (
        "the candidate has steps 0-1, the reference 0: let both runs make the same "
        "steps, or compare --steps 0",
    )
    assert "--allow" not in report.summary


def test_what_is_missing_beside_is_told_as_ever():
    more = run(steps=2)
    report = compared(
        memory_trace({**_tensors(more), "step0/mb0/gelu/output/0": ONES}), run()
    )
    assert report.summary.endswith(
        "1 exists in the reference only (gelu); 4 exist in the reference only, as the "
        "candidate has no step 1. If that is intended: --allow '*/gelu/*'."
    )


def _tensors(trace: MemoryTrace) -> dict[str, np.ndarray]:
    return {text: array for (_, text), array in trace.arrays.items()}


@pytest.mark.parametrize(
    ("framework", "said"),
    [
        (
            "torch",
            "the candidate calls the model 4 times in step 0, the reference once: "
            "micro-batches 1-3 are in the candidate only; likewise in step 1; look for "
            "a call of the model that only one run makes, and at how each accumulates "
            "gradients",
        ),
        (
            "jax",
            "the candidate has 4 micro-batches in step 0, the reference 1: "
            "micro-batches 1-3 are in the candidate only; likewise in step 1; look at "
            "how each run accumulates gradients",
        ),
    ],
)
def test_more_calls_of_the_model(framework: str, said: str):
    report = compared(
        run(2, framework=framework), run(2, microbatches=4, framework=framework)
    )
    assert report.remarks == (said,)
    reason = "only in the candidate: the reference has no micro-batch 2 of step 1"
    assert reason in {tensor.reason for tensor in report.tensors}
    assert report.diagnosis == ()


def test_steps_that_ran_together_are_not_counted():
    again = {
        "step0/fc/main_grad/weight/call1": f"{CAME_TWICE}. Is trace.step() missing?"
    }
    report = compared(run(3), run(1, microbatches=3, skipped=again))
    (remark,) = report.remarks
    assert "Is trace.step() missing?" in remark


def test_runs_of_one_length_say_nothing():
    assert compared(run(2, 2), run(2, 2)).remarks == ()


@pytest.mark.parametrize(
    ("numbers", "text"),
    [({0}, "0"), ({0, 1}, "0-1"), ({0, 1, 2, 5}, "0-2,5"), ({1, 3, 4}, "1,3-4")],
)
def test_steps_are_written_as_the_option_takes_them(numbers: set[int], text: str):
    assert ranges(numbers) == text
