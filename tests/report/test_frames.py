"""A frame of pandas or polars has a row for each tensor."""

import sys
import types

import pytest

from tests.factories.reports import FAILED, some_report
from ttrace.errors import MissingExtraError, UsageError
from ttrace.report.frames import LIBRARIES
from ttrace.report.rows import COLUMNS
from ttrace.testing.report_samples import reports


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


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_real_library_takes_every_report(library):
    pytest.importorskip(library, reason=f"no {library}: pip install {library}")
    for name, report in reports().items():
        frame = report.to_frame(library)
        assert frame.shape == (len(report.tensors), len(COLUMNS)), name
        assert list(frame.columns) == list(COLUMNS), name
    frame = some_report().to_frame(library)
    assert list(frame["id"])[1] == FAILED.id
    assert list(frame["margin"])[0] == 0.25


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_the_library_there_is_one_clear_error(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=f"a frame needs {library}") as caught:
        some_report().to_frame(library)
    assert f"pip install {library}" in str(caught.value)
    assert "--csv FILE" in str(caught.value)


def test_another_library_is_refused():
    with pytest.raises(UsageError, match="a frame of an unknown library"):
        some_report().to_frame("dask")
