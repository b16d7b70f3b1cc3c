"""Renders a report as CSV: one line for each tensor; only renders.

A table program takes a cell that begins with a sign for a formula, and runs it. Text
cells that do so get an apostrophe in front, which these programs do not show.
"""

import csv
import io
from typing import Any

from ttrace.report.model import Report
from ttrace.report.printable import printable
from ttrace.report.rows import COLUMNS, rows_of

_FORMULA = ("=", "+", "-", "@")
"""What a formula begins with."""


def render_csv(report: Report) -> str:
    """The renderer ``csv`` of ``ttrace.report.renderers``."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows_of(report.tensors):
        writer.writerow(_cell(row[name]) for name in COLUMNS)
    return file.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = printable(" ".join(value.split()))  # a line of the file is a row
    return f"'{text}" if text.startswith(_FORMULA) else text
