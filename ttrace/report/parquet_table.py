"""Renders a report as Parquet: the table of ``--csv``, its columns with their types."""

import importlib
import io
from typing import Any

from ttrace.errors import MissingExtraError
from ttrace.report.model import Report
from ttrace.report.rows import COLUMN_TYPES, rows_of

LIBRARIES = ("pyarrow", "polars")
"""What can write it; the first one that is installed does."""


def render_parquet(report: Report) -> bytes:
    """The renderer ``parquet`` of ``ttrace.report.renderers``.

    Raises:
        MissingExtraError: Neither library is installed.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMN_TYPES}
    for row in rows_of(report.tensors):
        for name, type_ in COLUMN_TYPES.items():
            columns[name].append(_cell(row[name], type_))
    for library, write in zip(LIBRARIES, (_by_pyarrow, _by_polars), strict=True):
        try:
            module = importlib.import_module(library)
        except ImportError:
            continue
        return write(module, columns)
    raise MissingExtraError(
        f"a table of Parquet needs {' or '.join(LIBRARIES)}, and none is installed",
        where="--parquet",
        remedy="pip install 'ttrace[parquet]', or write the table with --csv FILE",
    )


def _cell(value: Any, type_: type) -> Any:
    if value is None:
        return None
    if type_ is str:  # half of a surrogate pair is no text of a file
        return str(value).encode("utf-8", "backslashreplace").decode()
    return type_(value)


def _by_pyarrow(pyarrow: Any, columns: dict[str, list[Any]]) -> bytes:
    parquet = importlib.import_module("pyarrow.parquet")
    types = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
    }
    table = pyarrow.table(
        {
            name: pyarrow.array(values, types[COLUMN_TYPES[name]])
            for name, values in columns.items()
        }
    )
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def _by_polars(polars: Any, columns: dict[str, list[Any]]) -> bytes:
    types = {
        str: polars.String,
        int: polars.Int64,
        float: polars.Float64,
        bool: polars.Boolean,
    }
    schema = {name: types[type_] for name, type_ in COLUMN_TYPES.items()}
    file = io.BytesIO()
    polars.DataFrame(columns, schema=schema).write_parquet(file)
    return file.getvalue()
