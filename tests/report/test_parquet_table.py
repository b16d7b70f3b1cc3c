"""Parquet: the table of ``--csv`` with types, by whichever library is there."""

import importlib
import io
import math
import sys

import pytest

from tests.factories.reports import FAILED, PASSED, some_report
from ttrace.errors import MissingExtraError
from ttrace.report.parquet_table import LIBRARIES, render_parquet
from ttrace.report.rows import COLUMN_TYPES, rows_of
from ttrace.testing.report_samples import diverged_report, reports


@pytest.fixture(params=LIBRARIES)
def library(request, monkeypatch):
    """Each of the libraries, with the others not installed."""
    name = request.param
    pytest.importorskip(name, reason=f"no {name}: pip install {name}")
    for other in set(LIBRARIES) - {name}:
        monkeypatch.setitem(sys.modules, other, None)
    return importlib.import_module(name)


def rows_read(data):
    """What a reader finds, whoever wrote it."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow to read it")
    return parquet.read_table(io.BytesIO(data)).to_pylist()


def same(one, other):
    both_nan = isinstance(one, float) and isinstance(other, float) and one != one
    return one == other or (both_nan and math.isnan(other))


def test_every_cell_of_every_report_comes_back(library):
    written = {name: render_parquet(report) for name, report in reports().items()}
    importlib.invalidate_caches()
    for name in LIBRARIES:
        if sys.modules.get(name, library) is None:
            del sys.modules[name]
    for name, report in reports().items():
        found = rows_read(written[name])
        expected = list(rows_of(report.tensors))
        assert len(found) == len(expected), name
        for row, wanted in zip(found, expected, strict=True):
            assert list(row) == list(COLUMN_TYPES)
            assert all(same(row[column], wanted[column]) for column in row), name


def test_columns_have_their_types_in_every_report():
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow to read it")
    schemas = {
        str(parquet.read_schema(io.BytesIO(render_parquet(report))).remove_metadata())
        for report in reports().values()
    }
    assert len(schemas) == 1  # an empty one, too
    (schema,) = schemas
    for line in ("id: string", "step: int64", "margin: double", "shape: string"):
        assert line in schema.splitlines()
    assert "noise_dominated: bool" in schema.splitlines()


def test_figures_are_whole():
    pytest.importorskip("pyarrow", reason="no pyarrow: pip install pyarrow")
    passed, failed, *_ = rows_read(render_parquet(some_report()))
    assert (passed["id"], passed["rel_err"]) == (PASSED.id, PASSED.rel_err)
    assert passed["step"] == 0 and failed["microbatch"] is None
    assert failed["id"] == FAILED.id and failed["margin"] == math.inf


def test_half_a_character_does_no_harm():
    pytest.importorskip("pyarrow", reason="no pyarrow: pip install pyarrow")
    rows = rows_read(render_parquet(diverged_report("\ud800", reason="\ud800")))
    assert any("\\ud800" in row["reason"] for row in rows)


def test_without_a_library_there_is_one_clear_error(monkeypatch):
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match="needs pyarrow or polars") as caught:
        render_parquet(some_report())
    assert "pip install 'ttrace[parquet]'" in str(caught.value)
    assert "--csv FILE" in str(caught.value)
