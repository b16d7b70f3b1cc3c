"""Renders a report for a terminal; only renders."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ttrace.judge.verdict import Cause
from ttrace.report.caveats import caveats
from ttrace.report.details_text import closer_look_sentence
from ttrace.report.id_text import IdText
from ttrace.report.model import MapSetup, Outcome, Report, TensorReport
from ttrace.report.printable import Printable
from ttrace.report.runs_text import runs_lines
from ttrace.report.skip_reasons import grouped_reasons

_MAX_ROWS = 12
"""Rows of a table of tensors; the JSON report has them all."""

_STYLES = {
    Outcome.PASS: "bold green",
    Outcome.DIVERGED: "bold red",
    Outcome.ERROR: "bold yellow",
}


_USUAL_BACKENDS = ("cpu", "jax")
"""What ``--backend auto`` takes."""

_TEXT_WIDTH = 120
"""Columns of a text file."""


def render_text(report: Report) -> str:
    """The renderer ``text`` of ``ttrace.report.renderers``."""
    console = Console(file=io.StringIO(), width=_TEXT_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(render_report(report))
    return capture.get()


def print_report(
    report: Report, console: Console, *, json_path: Path | None = None
) -> None:
    """Prints verdict, totals, first divergence, diagnosis and the worst tensors."""
    console.print(render_report(report))
    if json_path is not None:
        print_report_path(json_path, console)


def print_report_path(json_path: Path, console: Console) -> None:
    """Says where the whole report lies, in a line that can be copied."""
    console.print(f"report: {json_path}", soft_wrap=True, markup=False, highlight=False)


def render_report(report: Report) -> RenderableType:
    """The report as one rich renderable."""
    parts: list[RenderableType] = [
        Text.assemble(
            ("verdict: ", "bold"),
            (report.verdict.value, _STYLES[report.verdict]),
            (" (uncalibrated)" if report.is_uncalibrated else "", "yellow"),
        ),
        Text(report.summary),
        *map(Text, _culprit_lines(report)),
        Text(_counts_line(report)),
        *(Text(line, style="dim") for line in runs_lines(report.setup)),
    ]
    if report.only:
        filters = " ".join(f"--{name} {text}" for name, text in report.only.items())
        parts.append(Text(f"compared only: {filters}", style="yellow"))
    parts += _caveats(report)
    parts += (Text(f"diagnosis: {item.sentence}") for item in report.diagnosis)
    if closer_look := closer_look_sentence(report):
        parts.append(Text(f"closer look: {closer_look}"))
    parts += (Text(f"remark: {remark}", style="yellow") for remark in report.remarks)
    parts += _differences(report)
    failed = report.failed()
    if failed:
        first = report.first_divergence
        head = [t for t in failed if first is not None and t.id == first.id]
        rest = [tensor for tensor in failed if tensor not in head]
        parts.append(_tensor_table("first failed tensors", [*head, *rest]))
    unmatched = [tensor for tensor in report.tensors if tensor.status == "unmatched"]
    if unmatched:
        parts.append(_reason_table("unmatched tensors", unmatched))
    return Printable(content=Group(*parts))


def _counts_line(report: Report) -> str:
    counts = report.counts
    # What is used where it can be is told by the other formats alone.
    backend = "" if report.backend in _USUAL_BACKENDS else f"; {report.backend} backend"
    return (
        f"{report.passed_text}, {counts.failed} failed, {counts.unmatched} "
        f"unmatched, {counts.skipped} skipped of {counts.total} tensors; largest "
        f"margin {_figure(report.largest_margin)} (error / tolerance){backend}"
    )


def _culprit_lines(report: Report) -> Iterable[str]:
    """Where failures begin, and what follows from each.

    Of the first divergence alone, only what follows: the summary has all else.
    """
    culprits, first = report.culprits, report.first_divergence
    if len(culprits) == 1 and first is not None and culprits[0].id == first.id:
        if sum(culprits[0].explains.values()) > 1:
            yield f"the first divergence explains {culprits[0].share}"
        return
    if len(culprits) > 1:
        yield f"{len(culprits)} independent places:"
    for number, culprit in enumerate(culprits[:_MAX_ROWS], 1):
        mark = f"{number}. " if len(culprits) > 1 else "place: "
        yield f"{mark}{culprit.sentence}"
    if len(culprits) > _MAX_ROWS:
        yield f"and {len(culprits) - _MAX_ROWS} more"


def _caveats(report: Report) -> Iterable[RenderableType]:
    """What was not compared, and what was judged by less than measured noise."""
    reasons = grouped_reasons(report.counts.skipped_reasons)
    for reason, count in reasons[:_MAX_ROWS]:
        yield Text(f"skipped {count}: {reason}", style="dim")
    if len(reasons) > _MAX_ROWS:
        rest = sum(count for _, count in reasons[_MAX_ROWS:])
        yield Text(f"skipped {rest}: for other reasons", style="dim")
    for sentence in caveats(report):
        yield Text(sentence, style="yellow")


def _differences(report: Report) -> Iterable[RenderableType]:
    if report.setup.map is not None:
        yield _map_line(report.setup.map)
    if report.setup.tensors:
        yield Text(
            f"set-up: {len(report.setup.tensors)} initial parameters or inputs "
            f"differ, first {report.setup.tensors[0]}",
            style="yellow",
        )
    if report.setup.differences:
        pairs = (
            f"{name} {reference} -> {candidate}"
            for name, (reference, candidate) in report.setup.differences.items()
        )
        yield Text("settings that differ: " + ", ".join(pairs), style="dim")


def _map_line(map_setup: MapSetup) -> Text:
    plural = "" if map_setup.num_rules == 1 else "s"
    line = f"matched by {map_setup.path}, {map_setup.num_rules} rule{plural}"
    if map_setup.num_unverified:
        line += f", {map_setup.num_unverified} of them unverified"
    if map_setup.num_left_out_reference or map_setup.num_left_out_candidate:
        line += (
            f"; it leaves out {map_setup.num_left_out_reference} inputs and outputs of "
            f"the reference, {map_setup.num_left_out_candidate} of the candidate"
        )
    return Text(line, style="yellow" if map_setup.num_unverified else "dim")


def _tensor_table(title: str, tensors: Sequence[TensorReport]) -> Table:
    table = Table(title=_title(title, tensors), title_justify="left")
    table.add_column("tensor")
    for column in ("rel_err", "tolerance", "margin"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for tensor in tensors[:_MAX_ROWS]:
        rel_err, tolerance = _figures(tensor)
        table.add_row(
            IdText(text=tensor.id),
            _figure(rel_err),
            _figure(tolerance),
            _figure(tensor.margin),
            escape(_reason_beside_figures(tensor)),
        )
    return table


def _figures(tensor: TensorReport) -> tuple[float | None, float | None]:
    """Error and tolerance, of the part by which a tensor failed or of all of it."""
    part = tensor.failed_part
    if part is None:
        return tensor.rel_err, tensor.tolerance
    return part.rel_err, part.tolerance


def _reason_beside_figures(tensor: TensorReport) -> str:
    """Why a tensor failed, without the figures that stand beside it."""
    if tensor.failed_part is not None:
        return f"its part {tensor.failed_part.name}"
    if tensor.cause != Cause.ERROR or tensor.max_abs_err_at is None:
        return tensor.reason
    where = f" at {list(tensor.max_abs_err_at)}" if tensor.max_abs_err_at else ""
    return f"largest difference {_figure(tensor.max_abs_err)}{where}"


def _reason_table(title: str, tensors: Sequence[TensorReport]) -> Table:
    table = Table(title=_title(title, tensors), title_justify="left")
    table.add_column("tensor")
    table.add_column("why", overflow="fold")
    for tensor in tensors[:_MAX_ROWS]:
        table.add_row(IdText(text=tensor.id), escape(tensor.reason))
    return table


def _title(title: str, tensors: Sequence[TensorReport]) -> str:
    if len(tensors) <= _MAX_ROWS:
        return title
    return f"{title} ({_MAX_ROWS} of {len(tensors)})"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
