"""Renders what is new in a report for a terminal; only renders."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ttrace.report.diff import OTHERS, WORSE, ReportDiff, TensorChange
from ttrace.report.id_text import IdText
from ttrace.report.printable import Printable
from ttrace.report.text import Detail
from ttrace.report.wording import MAX_ROWS, figure, title_of

_TITLES = {
    "failed": "tensors that fail, and did not",
    "unmatched": "tensors that only one run has, and that were no such",
    "no_longer_compared": "tensors that are no longer compared",
    "grown": "tensors whose margin grew",
    "passing": "tensors that pass, and did not",
    "appeared": "tensors that are new",
    "vanished": "tensors that are gone, and were not compared",
}


def render_diff(diff: ReportDiff, *, detail: Detail = Detail.USUAL) -> RenderableType:
    """All that is new as one rich renderable; the worse before the better."""
    max_rows = sys.maxsize if detail is Detail.FULL else MAX_ROWS
    verdicts = diff.old_verdict.value, diff.new_verdict.value
    changed = verdicts[0] != verdicts[1]
    word, style = (
        ("something got worse", "bold red")
        if diff.is_worse
        else ("nothing got worse", "bold green")
    )
    parts: list[RenderableType] = [
        Text(word, style=style),
        Text(
            f"verdict: {' -> '.join(verdicts)}"
            if changed
            else f"verdict: {verdicts[1]}, as before"
        ),
        Text(diff.new_summary),
    ]
    if not diff.old_compared:
        parts.append(
            Text(
                "the old job compared nothing, so all that fails counts as new; its "
                f"report says: {diff.old_summary}",
                style="yellow",
            )
        )
    if detail is Detail.BRIEF:
        return Printable(content=Group(*parts))
    parts += (Text(line) for line in _numbers(diff))
    if diff.changed_settings:
        pairs = (f"{n} {a} -> {b}" for n, (a, b) in diff.changed_settings.items())
        parts.append(Text(f"set up otherwise: {', '.join(pairs)}", style="yellow"))
    for name in (*WORSE, *OTHERS):
        changes = getattr(diff, name)
        if changes:
            parts.append(_table(_TITLES[name], changes, max_rows))
    return Printable(content=Group(*parts))


def _numbers(diff: ReportDiff) -> Iterable[str]:
    for name in (*WORSE, *OTHERS):
        changes = getattr(diff, name)
        if changes:
            yield f"{len(changes)} {_TITLES[name]}"


def _table(title: str, changes: Sequence[TensorChange], max_rows: int) -> Table:
    title = title_of(title, len(changes), max_rows)
    table = Table(title=title, title_justify="left")
    table.add_column("tensor")
    table.add_column("was", no_wrap=True)
    table.add_column("is", no_wrap=True)
    table.add_column("margin", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for change in changes[:max_rows]:
        table.add_row(
            IdText(text=change.id),
            change.old_status or "not there",
            change.new_status or "not there",
            f"{figure(change.old_margin)} -> {figure(change.new_margin)}",
            escape(change.reason),
        )
    return table
