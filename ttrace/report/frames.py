"""A report as a frame of pandas or polars."""

import importlib
from typing import Any

from ttrace.errors import MissingExtraError, UsageError
from ttrace.report.model import Report
from ttrace.report.rows import COLUMNS, rows_of

LIBRARIES = ("pandas", "polars")


def frame_of(report: Report, library: str) -> Any:
    """A ``DataFrame``: one row for each tensor, with the columns of ``--csv``.

    Args:
        report: The report.
        library: One of ``LIBRARIES``.

    Raises:
        MissingExtraError: It is not installed.
        UsageError: It is none of them.
    """
    if library not in LIBRARIES:
        raise UsageError(
            "a frame of an unknown library",
            expected=" or ".join(LIBRARIES),
            got=repr(library),
            remedy="choose one of them",
        )
    try:
        frames = importlib.import_module(library)
    except ImportError as error:
        raise MissingExtraError(
            f"a frame needs {library}, which is not installed",
            remedy=f"pip install {library}, or write the table with --csv FILE",
        ) from error
    rows: list[dict[str, Any]] = list(rows_of(report.tensors))
    if library == "polars":  # which guesses the types of columns from the first rows
        return frames.DataFrame(rows, schema=list(COLUMNS), infer_schema_length=None)
    return frames.DataFrame(rows, columns=list(COLUMNS))
