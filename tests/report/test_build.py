"""From two traces to a report: outcome, sentences, first divergence, figures."""

import math

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import ErrorKind, Outcome, Report

A, B, C = (f"step0/mb0/{name}/output/0" for name in "abc")
PARAM = "step0/a/param/weight"
VALUES = np.arange(1, 9, dtype=np.float32)


def report_of(reference, candidate, **options) -> Report:
    """Of two traces, or of tensors by id."""
    first, second = (
        memory_trace(side) if isinstance(side, dict) else side
        for side in (reference, candidate)
    )
    report = compare_traces(first, second, load_backend("numpy"), **options)
    assert report.counts.total == len(report.tensors)
    return report


def first_of(report):
    assert report.first_divergence is not None
    return report.first_divergence


def test_pass():
    report = report_of({A: VALUES, B: VALUES}, {A: VALUES, B: VALUES})
    assert report.verdict is Outcome.PASS
    assert report.summary == (
        "All 2 compared tensors agree within their tolerance: activations 2 of 2."
    )
    assert report.first_divergence is None and report.diagnosis == ()
    assert report.backend == "numpy"


def test_divergence_names_the_first_failed_tensor_of_the_dataflow():
    wrong = VALUES[::-1].copy()
    report = report_of(
        {A: VALUES, B: VALUES, C: VALUES}, {A: VALUES, C: wrong, B: wrong}
    )
    assert report.verdict is Outcome.DIVERGED
    first = first_of(report)
    assert (first.id, first.module, first.kind, first.phase) == (
        B,
        "b",
        "output",
        "forward",
    )
    assert first.sentence.startswith("step 0, micro-batch 0: output 0 of b: rel_err ")
    assert report.summary == f"Of 3 tensors: 2 diverge. First: {first.sentence}."


def test_failed_tensors_come_before_unmatched_ones():
    report = report_of({A: VALUES, B: VALUES}, {B: VALUES * 2})
    assert first_of(report).id == B
    assert "Of 2 tensors: 1 diverge, 1 unmatched." in report.summary


def test_unmatched_tensors_alone_diverge():
    report = report_of({A: VALUES, B: VALUES}, {A: VALUES})
    assert report.verdict is Outcome.DIVERGED
    assert first_of(report).sentence == (
        "step 0, micro-batch 0: output 0 of b: only in the reference"
    )
    assert (
        report_of({A: VALUES, B: VALUES}, {A: VALUES}, allow=[B]).verdict
        is Outcome.PASS
    )


def test_nothing_in_common_is_an_error():
    report = report_of({A: VALUES}, {B: VALUES})
    assert report.verdict is Outcome.ERROR
    assert report.summary.startswith(
        "Nothing could be compared: of 2 tensors in the two traces, 2 are unmatched"
    )


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_empty_tensors_alone_are_no_pass(shape):
    empty = {A: np.zeros(shape, np.float32)}
    assert report_of(empty, empty).verdict is Outcome.ERROR


def test_everything_allowed_is_no_pass():
    assert report_of({A: VALUES}, {B: VALUES}, allow=["*"]).verdict is Outcome.ERROR


def test_set_up_difference_is_an_error_and_named():
    report = report_of({PARAM: VALUES, A: VALUES}, {PARAM: VALUES * 2, A: VALUES * 2})
    assert report.verdict is Outcome.ERROR
    assert report.summary.startswith(
        f"Set-up differs: the two runs were not given the same. First: {PARAM}: rel_err"
    )
    assert report.setup.tensors == (PARAM,)
    assert first_of(report).phase == "set-up"
    assert report.counts.failed == 2  # the comparison is made all the same


def test_nonfinite_reference_is_an_error():
    bad = VALUES.copy()
    bad[0] = np.nan
    report = report_of({A: VALUES, B: bad}, {A: VALUES * 2, B: bad})
    assert report.verdict is Outcome.ERROR
    assert report.summary.startswith(f"The reference cannot be trusted. {B}: 1 of 8")


def test_nonfinite_candidate_diverges():
    bad = VALUES.copy()
    bad[0] = np.nan
    assert report_of({A: VALUES}, {A: bad}).verdict is Outcome.DIVERGED


@pytest.mark.parametrize(
    ("tensor_id", "phase", "sentence"),
    [
        ("step1/mb3/a/output/0", "forward", "step 1, micro-batch 3: output 0 of a"),
        ("step0/mb0/a/output/0/call2", "forward", "output 0 (call 2) of a"),
        ("step0/mb0/a/output/0/recompute", "backward", "output 0 (recomputed) of a"),
        ("step0/mb0/@root/input/0", "set-up", "input 0 of @root"),
        ("step0/mb0/a/input/0", "forward", "input 0 of a"),
        ("step0/mb0/a/grad_input/0", "backward", "grad_input 0 of a"),
        ("step0/mb0/a/param_grad/weight", "backward", "param_grad weight of a"),
        ("step0/a/main_grad/weight", "optimizer", "step 0: main_grad weight of a"),
        ("step0/@root/grad_norm", "optimizer", "step 0: grad_norm of @root"),
    ],
)  # fmt: skip
def test_phase_and_place(tensor_id, phase, sentence):
    first = first_of(report_of({tensor_id: VALUES}, {tensor_id: -VALUES}))
    assert first.phase == phase and sentence in first.sentence


def test_figures_of_a_tensor():
    reference = memory_trace({A: VALUES.reshape(2, 4)})
    changed = VALUES.reshape(2, 4).copy()
    changed[1, 2] += 0.5
    candidate = memory_trace(
        {A: Tensor(full=changed, dims="x[tp] y", scale=0.5)}, {"dp": 2, "tp": 2}
    )
    candidate.arrays[2, A][0, 0] += 1  # a copy of the first half, on rank 2
    (tensor,) = report_of(reference, candidate).tensors
    norm = float(np.linalg.norm(VALUES))
    assert tensor.rel_err == pytest.approx(0.5 / norm)
    assert tensor.max_abs_err == 0.5 and tensor.max_abs_err_at == (1, 2)
    assert tensor.shape == (2, 4) and tensor.num_elements == 8
    assert tensor.num_unequal == 1 and tensor.scales == (1.0, 0.5)
    assert tensor.dtypes == ("float32", "float32")
    assert tensor.layouts == ("whole (1 rank)", "x[tp] y (4 ranks)")
    assert tensor.nan == tensor.inf == (0, 0)
    assert tensor.tolerance_from == "uncalibrated"
    assert tensor.tolerance and tensor.rel_err
    assert tensor.margin == pytest.approx(tensor.rel_err / tensor.tolerance)
    assert tensor.replica_spreads == {"dp": tensor.replica_spread}
    assert tensor.replica_spread == pytest.approx(2 / np.linalg.norm(VALUES[:4]))
    assert tensor.rank_rel_err == {
        "0": 0.0,
        "1": pytest.approx(0.5 / np.linalg.norm(VALUES[4:])),
    }
    assert tensor.cosine == pytest.approx(1, abs=1e-2)


def test_scale_fit():
    (tensor,) = report_of({A: VALUES}, {A: VALUES * -3}).tensors
    assert tensor.scale_fit == pytest.approx(-3)
    (zero,) = report_of({A: VALUES * 0}, {A: VALUES}).tensors
    assert zero.scale_fit is None and zero.rel_err == math.inf


def test_layout_of_a_scalar():
    scalar = np.array(2, np.float32)
    (tensor,) = report_of({A: scalar}, {A: scalar}).tensors
    assert tensor.layouts == ("whole (1 rank)", "whole (1 rank)")
    assert tensor.max_abs_err_at is None


def test_part_of_a_tensor_is_counted():
    half = memory_trace({A: Tensor(full=VALUES, dims="x[tp]")}, {"tp": 2}, recorded=[0])
    report = report_of({A: VALUES}, half)
    assert report.verdict is Outcome.PASS
    assert report.num_compared_in_part == 1
    assert report.tensors[0].part == "ranks"
    assert report.setup.candidate.num_recorded_ranks == 1


def test_a_part_is_said_of_what_fails_too():
    half = memory_trace({A: Tensor(full=VALUES, dims="x[tp]")}, {"tp": 2}, recorded=[0])
    (tensor,) = report_of({A: VALUES * 2}, half).tensors
    assert (tensor.status, tensor.cause, tensor.part) == ("failed", "error", "ranks")


@pytest.mark.parametrize(
    ("candidate", "cause", "error_kind"),
    [
        (VALUES, None, None),
        (VALUES * 2, "error", None),
        (VALUES[:4], "shape", None),
        (np.full(8, np.nan, np.float32), "nonfinite_candidate", None),
    ],
)
def test_the_cause_of_a_failure(candidate, cause, error_kind):
    report = report_of({A: VALUES}, {A: candidate})
    assert report.tensors[0].cause == cause and report.error_kind is error_kind


def test_what_keeps_it_from_a_verdict():
    bad = np.full(8, np.nan, np.float32)
    assert report_of({A: bad}, {A: bad}).error_kind is ErrorKind.TRACE
    assert report_of({PARAM: VALUES}, {PARAM: bad}).error_kind is ErrorKind.SETUP
    assert report_of({A: VALUES}, {B: VALUES}).error_kind is ErrorKind.COVERAGE


def test_both_runs_and_what_differs():
    reference = memory_trace({A: VALUES}, versions={"torch": "2.6"}, settings={"tp": 1})
    candidate = memory_trace(
        {A: VALUES},
        {"tp": 2},
        versions={"torch": "2.6"},
        settings={"tp": 2, "sp": True},
    )
    setup = report_of(reference, candidate).setup
    # Of a setting that one run does not state, nothing is known there.
    assert setup.differences == {"tp": (1, 2)}
    assert setup.candidate.meshes == {"dense": {"tp": 2}}
    assert (setup.reference.world_size, setup.candidate.world_size) == (1, 2)


def test_settings_that_change_the_mathematics_are_a_set_up_difference():
    reference = memory_trace({A: VALUES}, settings={"num_layers": 4, "bf16": False})
    candidate = memory_trace({A: VALUES}, settings={"num_layers": 3, "bf16": True})
    report = report_of(reference, candidate)
    assert report.verdict is Outcome.ERROR
    assert report.setup.binding == ("num_layers",)
    assert report.summary.startswith(
        "Set-up differs: num_layers is 4 in the reference and 3 in the candidate."
    )
    assert report.counts.passed == 1


def test_a_binding_setting_that_one_run_does_not_know_is_no_difference():
    report = report_of(
        memory_trace({A: VALUES}, settings={"num_layers": 4}), {A: VALUES}
    )
    assert report.verdict is Outcome.PASS
    assert report.setup.binding == ()


def test_skipped_reasons_are_counted():
    skipped = {B: "no layout rule", C: "no layout rule"}
    report = report_of(memory_trace({A: VALUES}, skipped=skipped), {A: VALUES})
    assert report.counts.skipped_reasons == {"reference: no layout rule": 2}
