"""In a notebook: a small table without any script."""

import html
import re

from tests.factories.reports import FAILED, some_report
from ttrace.report.model import Report
from ttrace.testing import RendererSuite
from ttrace.testing.report_samples import reports


class TestNotebook(RendererSuite):
    unsafe = (*RendererSuite.unsafe, "<script", "<img", "<x/>")

    def render(self, report: Report) -> str:
        return report._repr_html_()

    def as_read(self, rendered: str) -> str:
        return html.unescape(re.sub(r"</?[a-z]+>", " ", rendered))


def test_the_table_is_small():
    text = reports()["many tensors"]._repr_html_()
    assert text.count("<tr>") == 13 and "first failed tensors (12 of 5000)" in text
    assert f"<td>{FAILED.id}</td><td>inf</td><td>0</td>" in some_report()._repr_html_()
    assert "<table>" not in reports()["pass"]._repr_html_()
