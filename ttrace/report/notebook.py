"""A report in a notebook: a small table in HTML."""

import html
from collections.abc import Iterable

from ttrace.report.caveats import caveats
from ttrace.report.model import Report
from ttrace.report.printable import printable
from ttrace.report.wording import (
    MAX_ROWS,
    counts_line,
    failed_first_divergence_first,
    figure,
    figures,
    reason_beside_figures,
    skipped_lines,
    title_of,
)


def render_notebook(report: Report) -> str:
    """What a notebook shows of a report: a fragment of HTML, without any script."""
    uncalibrated = " (uncalibrated)" if report.is_uncalibrated else ""
    lines = [report.summary, counts_line(report)]
    first = report.first_divergence
    if first is not None and first.sentence not in report.summary:
        lines.append(f"first divergence: {first.sentence}")
    lines += (f"diagnosis: {item.sentence}" for item in report.diagnosis)
    lines += (f"remark: {remark}" for remark in report.remarks)
    lines += (f"skipped {line}" for line in skipped_lines(report))
    lines += caveats(report)
    parts = [f"<p><b>ttrace: {report.verdict.value}{uncalibrated}</b></p>"]
    parts += (f"<p>{_text(line)}</p>" for line in lines)
    parts += _failed(report)
    return f"<div>{''.join(parts)}</div>\n"


def _failed(report: Report) -> Iterable[str]:
    failed = failed_first_divergence_first(report)
    if not failed:
        return
    head = ("tensor", "rel_err", "tolerance", "margin", "why")
    rows = [
        (
            tensor.id,
            *map(figure, (*figures(tensor), tensor.margin)),
            reason_beside_figures(tensor),
        )
        for tensor in failed[:MAX_ROWS]
    ]
    title = title_of("first failed tensors", len(failed))
    yield f"<table><caption>{title}</caption>{_row('th', head)}"
    yield from (_row("td", row) for row in rows)
    yield "</table>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells)}</tr>"


def _text(text: str) -> str:
    return html.escape(printable(text))
