"""Each fault of a renderer fails the test that is there for it."""

import html
import re

import pytest

from ttrace.report.model import Report
from ttrace.testing import RendererSuite, failed_checks

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def page(report: Report) -> str:
    """A right rendering, as HTML of one line for each fact."""
    counts = report.counts
    first = report.first_divergence
    lines = [
        f"verdict: {report.verdict.value}",
        report.summary,
        f"{counts.failed} failed, {counts.unmatched} unmatched, {counts.skipped} left",
        *counts.skipped_reasons,
        *(diagnosis.sentence for diagnosis in report.diagnosis),
        *([first.sentence] if first else []),
    ]
    escaped = (html.escape(CONTROLS.sub("\ufffd", line)) for line in lines)
    return "".join(f"<p>{line}</p>\n" for line in escaped)


class Html(RendererSuite):
    unsafe = (*RendererSuite.unsafe, "<script", "<img", "<x/>")

    def render(self, report: Report) -> str:
        return page(report)

    def as_read(self, rendered: str) -> str:
        return html.unescape(re.sub(r"</?p>", "", rendered))


class TestHtml(Html):
    """Without a fault, in a format that needs ``unsafe`` and ``as_read``."""


calls = []


def raises_on_long_names(report: Report) -> str:
    if len(report.summary) > 5000:
        raise ValueError("too long")
    return page(report)


def alternates(report: Report) -> str:
    calls.append(report)
    return page(report) + str(len(calls))


def cuts_reasons(report: Report) -> str:
    text = page(report)
    for reason in report.counts.skipped_reasons:
        text = text.replace(f"<p>{html.escape(reason)}</p>\n", "")
    return text


def unescaped(report: Report) -> str:
    return html.unescape(page(report))


def obeys(report: Report) -> str:
    return page(report) + html.escape(report.summary)


FAULTS = {
    "test_renders_every_report": (raises_on_long_names, "raised ValueError: too long"),
    "test_names_the_verdict": (
        lambda r: page(r).replace(f"verdict: {r.verdict.value}", ""),
        "the verdict 'pass' is not named",
    ),
    "test_gives_the_summary": (
        lambda r: page(r).replace(r.summary, ""),
        "the summary '1217 of 4801",
    ),
    "test_names_the_first_divergence": (
        lambda r: page(r).replace("step 0", "somewhere"),
        "the first divergence is not named",
    ),
    "test_a_pass_speaks_of_no_divergence": (
        lambda r: page(r) + "<p>0 diverged</p>",
        "a pass is said to have diverged",
    ),
    "test_gives_every_diagnosis": (
        lambda r: page(r).replace("a reduction is missing", ""),
        "a reduction is missing' cannot be read",
    ),
    "test_gives_the_counts": (
        lambda r: page(r).replace("311 unmatched, ", ""),
        "the number of tensors '311' cannot be read",
    ),
    "test_says_why_tensors_were_skipped": (cuts_reasons, "'no layout rule' cannot"),
    "test_hostile_names_are_read_as_they_are": (
        lambda r: page(r).replace("&#x27;", ""),
        "cannot be read",
    ),
    "test_hostile_reasons_are_read_as_they_are": (cuts_reasons, "cannot be read"),
    "test_hostile_names_are_escaped": (unescaped, "reaches the reader unescaped"),
    "test_control_characters_are_escaped": (obeys, "reaches the reader unescaped"),
    "test_rendering_twice_gives_the_same": (alternates, "rendered twice, two results"),
}


@pytest.mark.parametrize("test", FAULTS)
def test_a_fault_fails_its_test(test):
    render, sentence = FAULTS[test]

    class Faulty(Html):
        def render(self, report: Report) -> str:
            return render(report)

    failed = failed_checks(Faulty, [test])
    assert sentence in failed.get(test, ""), failed


def test_every_test_of_the_suite_has_its_fault():
    assert {check.name for check in RendererSuite.checks()} == FAULTS.keys()
