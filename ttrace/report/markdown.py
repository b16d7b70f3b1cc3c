"""Renders a report as GitHub's Markdown, for a job summary or a comment; only renders.

Names and reasons are the user's: what Markdown or HTML would read as their own is
written as character references, which both show as they are.
"""

import html
import re
from collections.abc import Iterable, Sequence

from ttrace.report.caveats import caveats
from ttrace.report.code_places import code_lines
from ttrace.report.details_text import closer_look_sentence
from ttrace.report.isolation_text import isolation_lines
from ttrace.report.model import ErrorDetails, Report, TensorReport
from ttrace.report.printable import printable
from ttrace.report.runs_text import runs_lines
from ttrace.report.wording import (
    MAX_ROWS,
    counts_line,
    failed_first_divergence_first,
    figure,
    figures,
    map_line,
    only_line,
    only_the_first,
    reason_beside_figures,
    settings_line,
    setup_line,
    skipped_lines,
    title_of,
)

_MAX_CELL = 500
"""Characters of a cell, and of a line that is one of many: a summary of GitHub may have
1 MiB."""

_SYNTAX = re.compile(r"[\\`*_~\[\]<>&|$#]|(?<![A-Za-z0-9 ])[-+=](?=[ \-+=])|^[-+=]")
"""Characters that mean something to Markdown or HTML where they stand."""

_NUMBERED = re.compile(r"^(\d+)([.)])")
"""What would begin a list."""

_PLAIN_CODE = re.compile(r"[\w./@:,*+-]+")
"""What can stand between backticks as it is, also in a table."""


def render_markdown(report: Report) -> str:
    """The renderer ``markdown`` of ``ttrace.report.renderers``."""
    uncalibrated = " (uncalibrated)" if report.is_uncalibrated else ""
    blocks = [
        f"## ttrace: {report.verdict.value}{uncalibrated}",
        _text(report.summary),
        _text(counts_line(report)),
    ]
    error, first = report.error, report.first_divergence
    if error is not None:
        blocks += _error(error)
    if first is not None:
        blocks.append(
            f"**First divergence** ({first.phase}): {_code(first.id, whole=True)}\n\n"
            f"{_text(first.sentence)}"
        )
    blocks += _places(report)
    blocks += _list(
        "Wrong by itself", map(_cut, isolation_lines(report.isolation, heading=""))
    )
    blocks += _list("Where to look", map(_cut, code_lines(report)))
    blocks += _list("Diagnosis", (item.sentence for item in report.diagnosis))
    blocks += _list("Closer look", filter(None, [closer_look_sentence(report)]))
    blocks += _failed(report)
    blocks += _unmatched(report)
    blocks += _coverage(report)
    blocks += _list("Not compared", map(_cut, skipped_lines(report)))
    blocks += _list("To know", map(_cut, _remarks(report)))
    return "\n\n".join(blocks) + "\n"


def _error(error: ErrorDetails) -> Iterable[str]:
    """What went wrong; what has several lines, such as a traceback, keeps them."""
    labels = ("what", "where", "expected", "got", "remedy")
    found = {label: value for label in labels if (value := getattr(error, label))}
    lines = {label: text for label, text in found.items() if "\n" not in text}
    yield from _list("Error", (f"{label}: {text}" for label, text in lines.items()))
    for label, text in found.items():
        if label not in lines:
            yield f"{label}:\n\n<pre>{_lines(text)}</pre>"


def _places(report: Report) -> Iterable[str]:
    """Where failures begin, and what each explains."""
    culprits = report.culprits
    if only_the_first(report):
        if sum(culprits[0].explains.values()) > 1:
            yield _text(f"The first divergence explains {culprits[0].share}.")
        return
    shown = [_cut(culprit.sentence) for culprit in culprits[:MAX_ROWS]]
    if len(culprits) > MAX_ROWS:
        shown.append(f"and {len(culprits) - MAX_ROWS} more")
    yield from _list("Where failures begin", shown)


def _remarks(report: Report) -> Iterable[str]:
    yield from report.remarks
    yield from runs_lines(report.setup)
    yield from caveats(report)
    lines = (only_line(report), setup_line(report), settings_line(report))
    yield from filter(None, lines)
    if report.setup.map is not None:
        yield map_line(report.setup.map)


def _failed(report: Report) -> Iterable[str]:
    failed = failed_first_divergence_first(report)
    if not failed:
        return
    rows = [
        (
            _code(tensor.id),
            *map(figure, (*figures(tensor), tensor.margin)),
            _cell(reason_beside_figures(tensor)),
        )
        for tensor in failed[:MAX_ROWS]
    ]
    head = ("tensor", "rel_err", "tolerance", "margin", "why")
    yield _table(title_of("First failed tensors", len(failed)), head, rows)


def _unmatched(report: Report) -> Iterable[str]:
    unmatched = [tensor for tensor in report.tensors if tensor.status == "unmatched"]
    if unmatched:
        title = title_of("Unmatched tensors", len(unmatched))
        yield _table(title, ("tensor", "why"), map(_reason_row, unmatched[:MAX_ROWS]))


def _reason_row(tensor: TensorReport) -> tuple[str, str]:
    return _code(tensor.id), _cell(tensor.reason)


def _coverage(report: Report) -> Iterable[str]:
    if not report.coverage:
        return
    head = ("kind", "compared", "skipped", "unmatched", "total", "noise-dominated")
    rows = [
        (
            _code(kind),
            *map(str, (count.compared, count.skipped, count.unmatched, count.total)),
            str(count.noise_dominated),
        )
        for kind, count in report.coverage.items()
    ]
    yield _table("What was compared", head, rows)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"**{title}**", "", _row(_text(name) for name in head)]
    lines.append(_row("---" for _ in head))
    return "\n".join([*lines, *map(_row, rows)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list(title: str, lines: Iterable[str]) -> list[str]:
    items = [f"- {_text(line)}" for line in lines]
    return ["\n".join([f"**{title}**", "", *items])] if items else []


def _text(text: str) -> str:
    """Text that is read as it is, in one line."""
    text = _SYNTAX.sub(lambda found: f"&#{ord(found[0])};", _line(text))
    return _NUMBERED.sub(lambda found: f"{found[1]}&#{ord(found[2])};", text)


def _cell(text: str) -> str:
    return _text(_cut(text))


def _code(text: str, *, whole: bool = False) -> str:
    """A name in the type of code; of a long one the beginning, or all of it."""
    text = _line(text if whole else _cut(text))
    if _PLAIN_CODE.fullmatch(text):
        return f"`{text}`"
    return f"<code>{_text(text)}</code>"


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _lines(text: str) -> str:
    """Text in several lines, as it stands between tags of HTML."""
    return "\n".join(
        html.escape(printable(line), quote=False) for line in text.splitlines()
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}..."
