"""In a notebook: a small table without any script, and a frame of all tensors."""

import html
import re
import sys
import types

import pytest

from tests.factories.reports import FAILED, some_report
from ttrace.errors import MissingExtraError
from ttrace.report.model import Report
from ttrace.report.rows import COLUMNS
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


def test_a_frame_has_a_row_for_each_tensor(monkeypatch):
    class Frame:
        def __init__(self, rows, columns):
            self.rows, self.columns = rows, columns

    pandas = types.ModuleType("pandas")
    monkeypatch.setattr(pandas, "DataFrame", Frame, raising=False)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    frame: Frame = some_report().to_frame()
    assert frame.columns == list(COLUMNS) and len(frame.rows) == 4
    row = frame.rows[1]
    assert row["id"] == FAILED.id and row["margin"] == FAILED.margin
    assert row["module"] == "decoder.final_layernorm" and row["microbatch"] is None


def test_without_pandas_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="a frame needs pandas") as caught:
        some_report().to_frame()
    assert "pip install pandas" in str(caught.value)
    assert "--csv FILE" in str(caught.value)
