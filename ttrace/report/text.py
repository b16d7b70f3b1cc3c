"""Renders a report for a terminal; only renders."""

import enum
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import (
    Console,
    ConsoleOptions,
    Group,
    RenderableType,
    RenderResult,
)
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ttrace.report.caveats import caveats
from ttrace.report.code_places import code_lines
from ttrace.report.details_text import closer_look_sentence
from ttrace.report.id_text import IdText
from ttrace.report.isolation_text import isolation_lines
from ttrace.report.model import Outcome, Report, TensorReport
from ttrace.report.printable import Printable
from ttrace.report.runs_text import runs_lines
from ttrace.report.wording import (
    MAX_ROWS,
    counts_line,
    failed_first_divergence_first,
    figure,
    figures,
    map_line,
    only_line,
    place_lines,
    reason_beside_figures,
    settings_line,
    setup_line,
    skipped_lines,
    tells_place_only,
    title_of,
)

_STYLES = {
    Outcome.PASS: "bold green",
    Outcome.DIVERGED: "bold red",
    Outcome.ERROR: "bold yellow",
}

_TEXT_WIDTH = 120
"""Columns of a text file."""

_NARROW = 100
"""Columns below which a table has no room for what the figures tell."""


class Detail(enum.Enum):
    """How much of a report is shown."""

    BRIEF = "brief"
    """The verdict and its sentence."""

    USUAL = "usual"
    """What says where and why, and the first tensors."""

    FULL = "full"
    """The same with all tensors that failed or are unmatched, and all reasons."""


def render_text(report: Report) -> str:
    """The renderer ``text`` of ``ttrace.report.renderers``."""
    console = Console(file=io.StringIO(), width=_TEXT_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(render_report(report))
    return capture.get()


def print_report(
    report: Report,
    console: Console,
    *,
    json_path: Path | None = None,
    detail: Detail = Detail.USUAL,
) -> None:
    """Prints verdict, totals, first divergence, diagnosis and the worst tensors."""
    console.print(render_report(report, detail=detail))
    if json_path is not None:
        print_report_path(json_path, console)


def print_report_path(json_path: Path, console: Console) -> None:
    """Says where the whole report lies, in a line that can be copied."""
    console.print(f"report: {json_path}", soft_wrap=True, markup=False, highlight=False)


def render_report(report: Report, *, detail: Detail = Detail.USUAL) -> RenderableType:
    """The report as one rich renderable."""
    max_rows = sys.maxsize if detail is Detail.FULL else MAX_ROWS
    parts: list[RenderableType] = [
        Text.assemble(
            ("verdict: ", "bold"),
            (report.verdict.value, _STYLES[report.verdict]),
            (" (uncalibrated)" if report.is_uncalibrated else "", "yellow"),
        ),
        Text(report.summary),
    ]
    if detail is Detail.BRIEF:
        return Printable(content=Group(*parts))
    parts += map(Text, place_lines(report, max_rows=max_rows))
    parts.append(Text(counts_line(report)))
    parts += (Text(line, style="dim") for line in runs_lines(report.setup))
    if report.only:
        parts.append(Text(only_line(report), style="yellow"))
    skipped = skipped_lines(report, max_rows=max_rows)
    parts += (Text(f"skipped {line}", style="dim") for line in skipped)
    parts += (Text(caveat, style="yellow") for caveat in caveats(report))
    parts += map(Text, isolation_lines(report.isolation))
    parts += map(Text, code_lines(report))
    parts += (Text(f"diagnosis: {item.sentence}") for item in report.diagnosis)
    if closer_look := closer_look_sentence(report):
        parts.append(Text(f"closer look: {closer_look}"))
    parts += (Text(f"remark: {remark}", style="yellow") for remark in report.remarks)
    parts += _differences(report)
    failed = failed_first_divergence_first(report)
    if failed:
        title = title_of(_failed_title(detail), len(failed), max_rows)
        parts.append(_TensorTable(title=title, tensors=failed[:max_rows]))
    unmatched = [tensor for tensor in report.tensors if tensor.status == "unmatched"]
    if unmatched:
        parts.append(_reason_table("unmatched tensors", unmatched, max_rows))
    return Printable(content=Group(*parts))


def _failed_title(detail: Detail) -> str:
    return "failed tensors" if detail is Detail.FULL else "first failed tensors"


def _differences(report: Report) -> Iterable[RenderableType]:
    map_setup = report.setup.map
    if map_setup is not None:
        style = "yellow" if map_setup.num_unverified else "dim"
        yield Text(map_line(map_setup), style=style)
    if report.setup.tensors:
        yield Text(setup_line(report), style="yellow")
    if report.setup.differences:
        yield Text(settings_line(report), style="dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class _TensorTable:
    """Tensors with their figures, and why they failed.

    Where it is narrow, ids have the room of what their figures have told already.

    Attributes:
        title: Above the table.
        tensors: Its rows.
    """

    title: str
    tensors: Sequence[TensorReport]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        is_narrow = options.max_width < _NARROW
        reasons = [
            "" if is_narrow and tells_place_only(t) else reason_beside_figures(t)
            for t in self.tensors
        ]
        table = Table(title=self.title, title_justify="left")
        table.add_column("tensor")
        for column in ("rel_err", "tolerance", "margin"):
            table.add_column(column, justify="right", no_wrap=True)
        if any(reasons):
            table.add_column("why", overflow="fold")
        for tensor, reason in zip(self.tensors, reasons, strict=True):
            rel_err, tolerance = figures(tensor)
            cells = map(figure, (rel_err, tolerance, tensor.margin))
            why = [escape(reason)] if any(reasons) else []
            table.add_row(IdText(text=tensor.id), *cells, *why)
        yield table


def _reason_table(title: str, tensors: Sequence[TensorReport], max_rows: int) -> Table:
    table = Table(title=title_of(title, len(tensors), max_rows), title_justify="left")
    table.add_column("tensor")
    table.add_column("why", overflow="fold")
    for tensor in tensors[:max_rows]:
        table.add_row(IdText(text=tensor.id), escape(tensor.reason))
    return table
