"""What the page says without a script."""

from dataclasses import replace

import pytest

from tests.factories.reports import FAILED, PASSED, some_report
from ttrace.ir.kinds import Kind
from ttrace.judge.verdicts.verdict import Status
from ttrace.report.html import overview
from ttrace.report.html.figures import figure, plural, setting, share
from ttrace.report.html.words import KIND_WORDS, STATUS_WORDS
from ttrace.report.model import Counts, KindCoverage
from ttrace.testing.report_samples import reports


def test_coverage_is_that_of_the_report():
    rows = overview.coverage_rows(some_report())
    assert [row.kind for row in rows] == ["output", "main_grad"]
    assert rows[0].words == "what a module returns"
    assert rows[0].compared_share == "33 %"
    assert rows[0].parts == (33.33, 33.33, 33.33)
    assert rows[1].parts == (100, 0, 0)


def test_coverage_of_a_report_that_does_not_say_it_is_counted():
    report = some_report(coverage={})
    rows = overview.coverage_rows(report)
    assert {row.kind: row.counts for row in rows} == some_report().coverage


def test_a_kind_of_another_version_has_no_words():
    counts = KindCoverage(compared=0, skipped=0, unmatched=0, total=0)
    (row,) = overview.coverage_rows(some_report(coverage={"scent": counts}))
    assert (row.kind, row.words, row.compared_share) == ("scent", "", "–")


def test_not_compared_is_grouped_by_reason():
    unmatched, skipped = overview.not_compared(some_report())
    assert (unmatched.status, unmatched.reason) == (
        "unmatched",
        "only in the reference",
    )
    assert (skipped.reason, skipped.count) == ("candidate: no layout rule", 1)
    assert (skipped.kinds, skipped.example) == ("output 1", "step0/mb0/router/output/0")


def test_the_counts_of_the_report_count():
    (_, skipped) = sorted(
        overview.not_compared(reports()["diverged"]), key=lambda row: row.count
    )
    assert (skipped.reason, skipped.count) == ("no layout rule", 63)


@pytest.mark.parametrize(
    ("skipped", "unmatched", "says"),
    [
        (0, 0, "Every recorded tensor was compared."),
        (1, 0, "1 tensor skipped, of 10."),
        (2, 3, "2 tensors skipped and 3 tensors only in one run, of 10."),
    ],
)
def test_headline_of_what_was_not_compared(skipped, unmatched, says):
    counts = Counts(
        total=10,
        passed=10 - skipped - unmatched,
        failed=0,
        unmatched=unmatched,
        skipped=skipped,
        skipped_reasons={"x": skipped} if skipped else {},
    )
    assert overview.not_compared_headline(some_report(counts=counts)) == says


def test_headline_of_nothing():
    assert overview.not_compared_headline(reports()["empty"]) == (
        "There was nothing to compare."
    )


def test_the_first_divergence_is_in_front():
    early = replace(FAILED, id="step0/a/main_grad/weight")
    report = some_report(tensors=(early, PASSED, FAILED))
    assert overview.first_failures(report) == [FAILED, early]


def test_not_all_failures_are_listed():
    tensors = [replace(FAILED, id=f"step{n}/a/main_grad/b") for n in range(99)]
    found = overview.first_failures(some_report(tensors=tuple(tensors)))
    assert len(found) == overview.MAX_FAILURES
    assert found == tensors[: overview.MAX_FAILURES]


def test_every_kind_and_status_has_words():
    assert set(KIND_WORDS) == set(Kind)
    assert set(STATUS_WORDS) == {status.value for status in Status}


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "–"),
        (0, 9, "0 %"),
        (1, 1000, "<1 %"),
        (999, 1000, ">99 %"),
        (9, 9, "100 %"),
        (1, 3, "33 %"),
    ],
)
def test_share(part, whole, text):
    assert share(part, whole) == text


def test_figures_and_settings():
    assert (figure(None), figure(float("nan")), figure(1.2345e-7)) == (
        "–",
        "nan",
        "1.23e-07",
    )
    assert (plural(1, "tensor"), plural(0, "tensor")) == ("1 tensor", "0 tensors")
    values = {None: "none", True: "yes", 0.1: "0.1", float("inf"): "inf", "x": "x"}
    assert {value: setting(value) for value in values} == values
    assert setting({"tp": 2, "dp": 1}) == "tp 2, dp 1"
