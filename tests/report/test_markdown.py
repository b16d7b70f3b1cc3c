"""Markdown: read as it is by GitHub, and small enough for the summary of a job."""

import html
import re
from dataclasses import replace

import pytest

from tests.factories.reports import FAILED, some_report
from ttrace.errors import UsageError
from ttrace.report.failed_job import report_of_error
from ttrace.report.markdown import render_markdown
from ttrace.report.model import Report
from ttrace.testing import RendererSuite
from ttrace.testing.report_samples import HOSTILE, diverged_report, reports

MAX_BYTES = 1 << 20
"""Of a job summary of GitHub."""

REPORTS = reports()


class TestMarkdown(RendererSuite):
    unsafe = (
        *RendererSuite.unsafe,
        "<script",
        "<img",
        "<x/>",
        "**x**",
        "_y_",
        "[bold]",
        "${x}",
    )

    def render(self, report: Report) -> str:
        return render_markdown(report)

    def as_read(self, rendered: str) -> str:
        return html.unescape(re.sub(r"</?code>|`", "", rendered))


@pytest.mark.parametrize("name", REPORTS)
def test_fits_a_job_summary(name):
    assert len(render_markdown(REPORTS[name]).encode()) < MAX_BYTES


@pytest.mark.parametrize("name", REPORTS)
def test_every_row_has_the_cells_of_its_head(name):
    lines = render_markdown(REPORTS[name]).splitlines()
    tables = 0
    for before, line in zip(lines, lines[1:], strict=False):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|"), line
        tables += line.startswith("| ---")
    assert tables or "pass" in name or name in ("empty",)


def test_what_it_says():
    text = render_markdown(some_report())
    assert text.startswith("## ttrace: diverged\n\n1 of 4 tensors diverge, 1 are unm")
    for block in (
        f"**First divergence** (optimizer): `{FAILED.id}`\n",
        "**Diagnosis**\n\n- replicas of 1 tensor",
        "**First failed tensors**\n\n"
        "| tensor | rel&#95;err | tolerance | margin | why |\n"
        "| --- | --- | --- | --- | --- |\n"
        f"| `{FAILED.id}` | inf | 0 | inf | 1 of 4 values",
        "| `step0/mb0/decoder.layers.7.mlp/output/0` | only in the reference |",
        "| `output` | 1 | 1 | 1 | 3 | 0 |",
        "**Not compared**\n\n- 1: candidate: no layout rule",
        "- settings that differ: torch 2.6.0 -&#62; 2.7.0, tp 1 -&#62; 2",
        "- compared in part, as 1 of 2 ranks",
    ):
        assert block in text, block


def test_a_long_table_says_what_it_leaves_out():
    text = render_markdown(REPORTS["many tensors"])
    assert "**First failed tensors (12 of 5000)**" in text
    assert text.count("\n| `step0/m") == 12


@pytest.mark.parametrize("name", HOSTILE.values(), ids=list(HOSTILE))
def test_names_open_no_syntax(name):
    """Outside of plain code, nothing of a name is a character of the syntax."""
    text = render_markdown(diverged_report(name, reason=f"- {name}"))
    text = re.sub(r"`[\w./@:,*+-]+`|</?code>|&#\d+;", "", text)
    text = re.sub(r"\*\*[A-Z][\w ()]+\*\*", "", text)
    for line in text.splitlines():
        cells = line.strip("|").split("|") if line.startswith("| ") else [line]
        for cell in cells:
            assert not re.search(r"[\\`*_~\[\]<>&|$]", cell), line


@pytest.mark.parametrize("text", ["- x", "1. x", "2) x", "=== x", "+ x", "# x", "> x"])
def test_a_sentence_opens_no_block(text):
    report = some_report(summary=text, diagnosis=(), remarks=(text,))
    rendered = render_markdown(report)
    assert f"\n{text}\n" not in rendered and f"- {text}" not in rendered
    assert html.unescape(rendered).count(text) == 2


def test_an_error_says_what_to_do():
    error = UsageError("no such folder", where="x_y", got="nothing", remedy="make it")
    text = render_markdown(report_of_error(error, backend="numpy"))
    assert text.startswith("## ttrace: error\n")
    assert "- what: no such folder\n- where: x&#95;y\n- got: nothing\n- remedy:" in text


def test_an_uncalibrated_verdict_says_so_beside_it():
    tensors = tuple(
        replace(tensor, tolerance_from="uncalibrated")
        for tensor in REPORTS["pass"].tensors
    )
    report = replace(REPORTS["pass"], tensors=tensors)
    assert render_markdown(report).startswith("## ttrace: pass (uncalibrated)\n")
