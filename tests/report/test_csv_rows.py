"""CSV: a line for each tensor, which no table program takes for a formula."""

import csv
import io
import math
from dataclasses import replace

import pytest

from tests.factories.reports import FAILED, PASSED, some_report
from tests.house.pages import PAGES
from ttrace.judge.verdicts.verdict import PartFigures
from ttrace.report.csv_rows import render_csv
from ttrace.report.rows import COLUMNS
from ttrace.testing.report_samples import (
    CONTROLS,
    HOSTILE,
    diverged_report,
    failed_tensor,
    reports,
)

REPORTS = reports()


def rows(report):
    return list(csv.DictReader(io.StringIO(render_csv(report))))


@pytest.mark.parametrize("name", REPORTS)
def test_a_line_for_each_tensor(name):
    report = REPORTS[name]
    text = render_csv(report)
    assert text.endswith("\n") and len(text.splitlines()) == 1 + len(report.tensors)
    assert [row["status"] for row in rows(report)] == [
        tensor.status for tensor in report.tensors
    ]


def test_figures_are_whole():
    passed, failed, unmatched, _ = rows(some_report())
    assert list(passed) == list(COLUMNS)
    assert float(passed["rel_err"]) == PASSED.rel_err
    assert passed["id"] == PASSED.id and passed["step"] == passed["microbatch"] == "0"
    assert (passed["module"], passed["slot"]) == ("embedding", "0")
    assert passed["shape"] == "[3, 4]" and passed["max_abs_err_at"] == "[2, 1]"
    assert (passed["dtype_reference"], passed["dtype_candidate"]) == PASSED.dtypes
    assert (passed["worst_rank"], passed["worst_rank_rel_err"]) == ("1", "0.00390625")
    assert failed["microbatch"] == "" and failed["cause"] == "nonfinite_candidate"
    assert float(failed["margin"]) == math.inf and failed["nan_candidate"] == "1"
    assert unmatched["rel_err"] == unmatched["shape"] == unmatched["worst_rank"] == ""


def test_every_figure_of_a_tensor_has_its_column():
    """But the closer look, spreads by axis, and all ranks but the worst."""
    singles = {
        field for field in FAILED.__dataclass_fields__ if hasattr(PASSED, field)
    } - {"dtypes", "layouts", "scales", "nan", "inf", "rank_rel_err", "details"}
    singles.remove("replica_spreads")
    assert singles <= set(COLUMNS)


def test_a_part_is_named():
    part = PartFigures(
        name="rows 0-3", rel_err=1.0, tolerance=0.1, derivation="", margin=10.0
    )
    (row,) = rows(some_report(tensors=(replace(FAILED, failed_part=part),)))
    assert row["failed_part"] == "rows 0-3"


@pytest.mark.parametrize("sign", "=+-@\t\r")
def test_no_cell_is_a_formula(sign):
    reason = f'{sign}cmd|" /C calc"!A0'
    tensor = replace(failed_tensor(f"step0/mb0/{reason}/output/0"), reason=reason)
    (row,) = rows(some_report(tensors=(tensor,)))
    for name in ("module", "reason"):
        shown = row[name]
        assert shown == f"'{reason}" or shown == reason.strip() and shown[0] == "c"
    assert not [cell for cell in row.values() if cell.startswith(tuple("=+-@\t\r"))]


def test_numbers_keep_their_sign():
    tensor = replace(FAILED, cosine=-0.5, scale_fit=-2.0, rel_err=-math.inf)
    (row,) = rows(some_report(tensors=(tensor,)))
    assert (row["cosine"], row["scale_fit"], row["rel_err"]) == ("-0.5", "-2.0", "-inf")


@pytest.mark.parametrize("text", [*HOSTILE.values(), "a\nb\r\nc", *CONTROLS.values()])
def test_texts_stay_in_their_cells(text):
    report = diverged_report(text, reason=text)
    rendered = render_csv(report)
    assert len(rendered.splitlines()) == 1 + len(report.tensors)
    assert all(char.isprintable() or char == "\n" for char in rendered)
    if text in HOSTILE.values():
        assert rows(report)[3]["reason"] == text


def test_the_docs_name_every_column():
    table = PAGES["docs/ci.md"].table("| column | holds |")
    named = [name.strip("` ") for row in table for name in row[0].split(",")]
    assert sorted(named) == sorted(COLUMNS)
