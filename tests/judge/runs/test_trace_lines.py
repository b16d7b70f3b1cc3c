"""Lines for ttrace that a script has at the wrong place are no bug of its training."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.optimizer_settings import NO_OPTIMIZER, OPTIMIZER
from ttrace.judge.outcome import Outcome
from ttrace.judge.runs.trace_lines import early_step
from ttrace.pipeline import compare_traces

BACKEND = load_backend("numpy")
VALUES = np.arange(1, 9, dtype=np.float32)
OF_FORWARD = ("mb0/a/output/0", "mb0/a/param_grad/weight")
OF_STEP = ("a/main_grad/weight", "a/updated_param/weight")
EARLY = (
    "trace.step() was called before optimizer.step() (first in step 0), so that each "
    "update was recorded as one of the next step. Call trace.step() after "
    "optimizer.step()"
)


def run(num_steps=3, *, early=False, loss_last=False, optimizer=True, **fields):
    fields.setdefault("framework", "torch")
    tensors = {"step0/a/param/weight": VALUES}
    for step in range(num_steps):
        values = VALUES + step
        tensors |= {f"step{step}/{id_}": values for id_ in OF_FORWARD}
        if optimizer:
            at = step + early
            tensors |= {f"step{at}/{id_}": -values for id_ in OF_STEP}
        if loss_last:
            tensors[f"step{step}/mb0/@root/loss"] = values[:1]
    if not optimizer:
        fields["settings"] = {OPTIMIZER: NO_OPTIMIZER}
    return memory_trace(tensors, **fields)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_step_that_only_one_run_ends_early(num_steps):
    late, early = run(num_steps), run(num_steps, early=True)
    for runs, side in (((late, early), "candidate"), ((early, late), "reference")):
        report = compare_traces(*runs, BACKEND)
        assert report.verdict is Outcome.ERROR
        assert report.summary == f"In the {side}, {EARLY}."
        assert report.diagnosis == ()


def test_a_step_that_both_runs_end_early():
    report = compare_traces(run(early=True), run(early=True), BACKEND)
    assert report.verdict is Outcome.PASS
    assert report.remarks == (f"in both runs {EARLY}",)


@pytest.mark.parametrize(
    "trace",
    [
        run(),
        run(loss_last=True),
        run(early=True, framework="jax"),
        run(optimizer=False),
    ],
    ids=["right", "loss", "jax", "no optimizer"],
)
def test_what_is_no_early_step(trace):
    assert early_step(trace.info) is None


def test_a_loss_that_is_given_last_is_no_forward_that_comes_later():
    tensors = {"step1/a/updated_param/weight": VALUES, "step1/mb0/@root/loss": VALUES}
    assert early_step(memory_trace(tensors, framework="torch").info) is None


def test_a_trace_without_the_optimizer_of_one_run():
    whole, without = run(), run(optimizer=False)
    for runs, side in (
        ((whole, without), "candidate"),
        ((without, whole), "reference"),
    ):
        report = compare_traces(*runs, BACKEND)
        assert report.verdict is Outcome.ERROR
        assert report.summary == (
            f"The {side}'s trace was given no optimizer, so that 6 tensors are only in "
            "the other run. Give it: torch_capture.trace(model, optimizer)."
        )
        assert report.diagnosis == ()


def test_without_it_a_forward_that_fails_is_told_all_the_same():
    without = run(optimizer=False)
    without.arrays[0, "step1/mb0/a/output/0"][0] += 1
    report = compare_traces(run(), without, BACKEND)
    assert report.verdict is Outcome.DIVERGED
    assert "First: step 1, micro-batch 0: output 0 of a" in report.summary
    assert report.remarks == (
        "the candidate's trace was given no optimizer, and nothing of it was recorded: "
        "torch_capture.trace(model, optimizer)",
    )


def test_two_traces_without_an_optimizer_are_of_one_kind():
    report = compare_traces(run(optimizer=False), run(optimizer=False), BACKEND)
    assert report.verdict is Outcome.PASS and report.remarks == ()
