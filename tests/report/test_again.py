"""Judged again from the report alone: as a comparison would, or said not to be."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.factories.reports import some_report
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.errors import CommandError, TraceError, UsageError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import (
    NoiseEstimate,
    TolerancePolicy,
    ToleranceTable,
)
from ttrace.judge.verdicts.allowances import Allowance
from ttrace.judge.verdicts.verdict import PartFigures
from ttrace.pipeline import compare_traces
from ttrace.report.again import judge_again
from ttrace.report.failed_job import report_of_error
from ttrace.report.model import ErrorKind, Outcome, Report

SMALL, LARGE = "step0/mb0/small/output/0", "step0/mb0/large/output/0"
GRAD, EXTRA = "step0/small/main_grad/weight", "step0/mb0/extra/output/0"
ONES = np.ones(4096, np.float32)
VALUES = {SMALL: ONES, LARGE: ONES, GRAD: ONES}
NOISE = 1e-4
"""Of every tensor, relative to its value."""


def table(multiplier: float = 6.0, noise: float = NOISE, norm: float | None = None):
    norm = float(np.linalg.norm(ONES)) if norm is None else norm
    return ToleranceTable(
        policy=TolerancePolicy(multiplier=multiplier),
        noise={
            parse_tensor_id(text): NoiseEstimate(
                draws=(noise * norm, noise * norm), reference_norm=norm
            )
            for text in VALUES
        },
    )


def compared(
    tolerances=None, *, allow=(), extra=False, dtype=np.float32, errors=(4e-4, 9e-4)
) -> Report:
    """Errors of 4 and 9 times the noise; an output that only the candidate has."""
    candidate = {
        SMALL: (ONES * (1 + errors[0])).astype(dtype),
        LARGE: (ONES * (1 + errors[1])).astype(dtype),
        GRAD: ONES,
    }
    if extra:
        candidate[EXTRA] = ONES
    return compare_traces(
        memory_trace(VALUES),
        memory_trace(candidate),
        load_backend("numpy"),
        tolerances=tolerances,
        allow=allow,
    )


def figures(report: Report) -> dict[str, tuple]:
    return {
        t.id: (
            t.status,
            t.cause,
            t.reason,
            pytest.approx(t.tolerance),
            pytest.approx(t.margin),
            t.tolerance_from,
            t.noise_dominated,
        )
        for t in report.tensors
    }


def require_alike(again: Report, whole: Report) -> None:
    """All but the derivations in words and the remarks."""
    assert figures(again) == figures(whole)
    assert (again.verdict, again.counts) == (whole.verdict, whole.counts)
    assert again.coverage == whole.coverage
    assert again.first_divergence == whole.first_divergence
    assert again.summary == whole.summary
    assert again.gaps == whole.gaps


@pytest.mark.parametrize("before", [1.0, 6.0, 20.0])
@pytest.mark.parametrize("after", [1e-6, 1.0, 6.0, 20.0, 1e4])
def test_a_multiplier_judges_as_a_comparison_does(before, after):
    again = judge_again(compared(table(before)), multiplier=after)
    require_alike(again, compared(table(after)))


@pytest.mark.parametrize("dtype", [np.float32, "bfloat16"])
@pytest.mark.parametrize("after", [0.1, 1.0, 6.0])
def test_a_tolerance_file_judges_as_a_comparison_does(after, dtype):
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    noise = 1e-4 if dtype is np.float32 else 1e-8  # roundings of 2^16 times the size
    options = {"dtype": dtype, "errors": (0.004, 0.5)}
    before = compared(table(0.01, noise), **options)
    whole = compared(table(after, noise), **options)
    require_alike(judge_again(before, tolerances=table(after, noise)), whole)
    other = judge_again(before, tolerances=table(3, noise), multiplier=after)
    require_alike(other, whole)


def test_a_tolerance_file_calibrates_a_report_that_was_not():
    before = compared()
    assert before.is_uncalibrated and before.verdict is Outcome.DIVERGED
    require_alike(judge_again(before, tolerances=table(10)), compared(table(10)))


@pytest.mark.parametrize("pattern", ["*/extra/*", "*/other/*"])
def test_allowances_judge_as_a_comparison_does(pattern):
    before = compared(table(20), extra=True)
    assert before.counts.unmatched == 1
    allow = [Allowance(pattern=pattern)]
    again = judge_again(before, allow=allow)
    whole = compared(table(20), extra=True, allow=allow)
    assert figures(again) == figures(whole) and again.verdict is whole.verdict
    assert again.counts == whole.counts and again.coverage == whole.coverage
    said = "matches no tensor of either run"
    assert any(said in remark for remark in again.remarks) is (pattern == "*/other/*")


def test_what_was_allowed_before_is_judged_anew():
    before = compared(table(20), extra=True, allow=["*/extra/*"])
    assert before.verdict is Outcome.PASS
    expired = Allowance(pattern="*/extra/*", file="a.toml", is_expired=True)
    again = judge_again(before, allow=[expired])
    assert again.verdict is Outcome.DIVERGED and again.counts.unmatched == 1
    (tensor,) = (t for t in again.tensors if t.id == EXTRA)
    assert tensor.reason == "only in the candidate" and tensor.allowed is None
    assert any("allows nothing any more" in remark for remark in again.remarks)
    # Without other allowances, they stay.
    kept = judge_again(before, multiplier=20)
    assert kept.verdict is Outcome.PASS and kept.counts == before.counts


def test_what_moved_is_said():
    again = judge_again(compared(table(6), extra=True), multiplier=10)
    assert again.remarks[-2:] == (
        "judged again from the report: 1 tensor that failed now pass, 0 that passed "
        "fail, 0 that were unmatched are allowed, 0 are no longer allowed",
        "parts of the 1 tensor that now pass were not judged, as a report does not "
        "hold them: 'ttrace compare' judges them",
    )
    again = judge_again(compared(table(10)), multiplier=6)
    assert again.remarks[-1].startswith("1 tensor that now fail were judged by toler")
    assert again.first_divergence is not None and again.first_divergence.id == LARGE


def test_diagnoses_go_with_what_they_explain():
    before = compared(table(1e-3), errors=(0.5, 0.5))
    assert before.diagnosis
    again = judge_again(before, multiplier=1e6)
    assert again.verdict is Outcome.PASS and again.diagnosis == ()
    assert judge_again(before, multiplier=1e-3).diagnosis == before.diagnosis


PART = PartFigures(name="0", rel_err=1.0, tolerance=0.1, derivation="", margin=10.0)


@pytest.mark.parametrize(
    "change, kept",
    [
        ({"cause": "replicas"}, "it failed by replicas"),
        ({"cause": "nonfinite_candidate"}, "it failed by nonfinite_candidate"),
        ({"cause": None}, "it failed by a cause that is not told"),
        ({"failed_part": PART}, "a part of it failed"),
        (
            {"reason": "rel_err 1 exceeds the tolerance 0.1; replicas differ"},
            "it failed by more than its error",
        ),
        (
            {"tolerance_per_multiplier": None},
            "its tolerance rests on more than measured noise",
        ),
        ({"tolerance_from": "exact"}, "it may not differ at all"),
        ({"tolerance_from": "uncalibrated"}, "its tolerance rests on no measured no"),
    ],
)
def test_what_figures_do_not_tell_stays_and_is_said(change, kept):
    before = compared(table(6))
    (failed,) = before.failed()
    tensors = tuple(replace(t, **change) if t is failed else t for t in before.tensors)
    again = judge_again(replace(before, tensors=tensors), multiplier=1e6)
    assert again.verdict is Outcome.DIVERGED
    assert again.failed() == (replace(failed, **change),)
    assert again.first_divergence == before.first_divergence
    said = [r for r in again.remarks if r.startswith("not judged again, 1 tensor")]
    assert len(said) == 1 and kept in said[0]


@pytest.mark.parametrize("kind", [ErrorKind.SETUP, ErrorKind.COVERAGE])
def test_an_error_stays_one(kind):
    before = replace(compared(table(6)), verdict=Outcome.ERROR, error_kind=kind)
    again = judge_again(before, multiplier=20)
    assert again.verdict is Outcome.ERROR and again.error_kind is kind
    assert again.counts.failed == 0 and again.summary == before.summary
    assert any("the verdict stays an error" in remark for remark in again.remarks)


def test_what_was_not_compared_forbids_a_pass():
    before = replace(compared(table(6)), gaps=("Nothing of kind main_grad",))
    again = judge_again(before, multiplier=20)
    assert again.verdict is Outcome.ERROR and again.error_kind is ErrorKind.COVERAGE
    assert again.summary.startswith("Nothing of kind main_grad. What could be compared")


def test_a_kind_that_only_noise_is_left_of_is_no_pass():
    before = compared(table(1e-6, noise=0.5), errors=(0.3, 0.4))
    assert before.verdict is Outcome.DIVERGED and before.gaps is not None
    again = judge_again(replace(before, gaps=()), multiplier=6)
    assert again.verdict is Outcome.ERROR and again.error_kind is ErrorKind.COVERAGE
    assert "Nothing of kind output was checked" in again.summary


def test_a_kind_that_is_allowed_away_is_no_pass():
    before = compared(table(20), extra=True)
    tensors = tuple(
        replace(t, kind="main_grad", id="step0/b/main_grad/w")
        if t.status == "unmatched"
        else replace(t, status="skipped", reason="no layout rule")
        if t.kind == "main_grad"
        else t
        for t in before.tensors
    )
    again = judge_again(
        replace(before, tensors=tensors), allow=[Allowance(pattern="*/b/*")]
    )
    assert again.verdict is Outcome.ERROR
    assert again.summary.startswith("Nothing of kind main_grad is compared")


def test_a_report_of_an_earlier_version_is_refused():
    before = compared(table(6))
    without = tuple(
        replace(t, tolerance_least=None, tolerance_per_multiplier=None)
        for t in before.tensors
    )
    with pytest.raises(TraceError, match="does not say what its tolerances") as caught:
        judge_again(replace(before, tensors=without), multiplier=20)
    assert "an earlier version wrote it" in str(caught.value)
    assert "make the report again with 'ttrace compare'" in str(caught.value)
    with pytest.raises(TraceError, match="that it can be no pass") as caught:
        judge_again(replace(before, gaps=None), multiplier=20)
    assert "its key gaps" in str(caught.value)
    # What stays diverged, or was a pass, needs none.
    judge_again(replace(before, gaps=None), multiplier=6)
    judge_again(replace(compared(table(20)), gaps=None), multiplier=30)


def test_nothing_to_judge_or_to_judge_by():
    with pytest.raises(UsageError, match="nothing to judge the report by"):
        judge_again(some_report())
    error = CommandError("it failed", remedy="read its log")
    with pytest.raises(UsageError, match="holds no tensor to judge again"):
        judge_again(report_of_error(error, backend="numpy"), multiplier=2)
    with pytest.raises(UsageError, match="no tolerance of the report rests on"):
        judge_again(compared(), multiplier=2)


@pytest.mark.parametrize("norm", [1.0, None])
def test_tolerances_of_another_reference_are_refused(norm):
    other = table(6, norm=norm)
    if norm is None:
        noise = next(iter(other.noise.values()))
        other = replace(other, noise={parse_tensor_id("step0/x/main_grad/w"): noise})
    with pytest.raises(UsageError, match="measured on another reference") as caught:
        judge_again(compared(table(6)), tolerances=other)
    numbers = "3 tensors with other norms, and 0" if norm else "0 tensors with other"
    assert numbers in str(caught.value)


def test_noise_of_coarser_roundings_is_refused():
    coarse = replace(table(6), noise_dtype="bfloat16")
    with pytest.raises(UsageError, match="the noise stands for coarser roundings"):
        judge_again(compared(table(6)), tolerances=coarse)


def test_the_report_round_trips():
    again = judge_again(
        compared(table(6), extra=True), allow=[Allowance(pattern="*x*")]
    )
    assert Report.from_json(again.to_json()) == again
    assert math.isfinite(again.tensors[0].tolerance_per_multiplier or math.nan)
