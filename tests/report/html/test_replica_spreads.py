"""The replicas of a comparison, by axis and kind."""

import math
from dataclasses import replace

from tests.factories.reports import FAILED, PASSED, some_report
from ttrace.report.html.render import render_html
from ttrace.report.html.replica_spreads import replica_spreads
from ttrace.report.model import Report

AGREES = replace(PASSED, cause=None, replica_spreads={"tp": 0.0, "dp": 1e-9})
DIFFERS = replace(
    AGREES,
    id="step0/mb0/other/output/0",
    status="failed",
    cause="replicas",
    replica_spreads={"tp": 0.5, "dp": 0.0},
)


def test_by_axis_and_kind_what_differs_first():
    assert AGREES.kind == DIFFERS.kind
    rows = replica_spreads(some_report(tensors=(AGREES, DIFFERS, FAILED)))
    assert [
        (row.over, row.num_tensors, row.num_unlike, row.num_failed, row.spread)
        for row in rows
    ] == [("tp", 2, 1, 1, 0.5), ("dp", 2, 1, 0, 1e-9)]


def test_what_is_no_number_is_the_largest_spread():
    nan = replace(DIFFERS, replica_spreads={"tp": math.nan})
    (row, _) = replica_spreads(some_report(tensors=(AGREES, nan)))
    assert row.over == "tp" and math.isnan(row.spread)


def test_the_page_has_them_where_there_are_any():
    text = render_html(some_report(tensors=(AGREES, DIFFERS)))
    assert "Replicas of the candidate" in text
    assert "Replicas of the candidate" not in render_html(some_report())


def test_a_report_keeps_them():
    report = some_report(tensors=(AGREES, DIFFERS))
    assert Report.from_json(report.to_json()) == report
