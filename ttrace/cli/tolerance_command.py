"""``ttrace tolerance``: from noise runs of a reference to a tolerance file."""

import argparse
from pathlib import Path

from rich.table import Table

from ttrace.cli.program_backend import program_backend
from ttrace.cli.report_files import STDOUT, wanted_page, write_page
from ttrace.cli.shared_work import shared_work
from ttrace.cli.terminal import announce, output_console, status_console
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.pipeline import estimate_tolerance
from ttrace.report.html.figures import plural
from ttrace.report.html.tolerance_page import by_kind, render_tolerance
from ttrace.report.wording import figure
from ttrace.store.output_file import require_writable


def run(args: argparse.Namespace) -> int:
    """Writes the tolerance file."""
    out = Path(args.out)
    require_writable(out, asked_by="--out")
    page = wanted_page(args, own=out)
    with shared_work(args, "measuring the noise") as work:
        table = estimate_tolerance(
            args.reference,
            args.perturbed,
            backend=program_backend(args.backend),
            progress=work.progress,
            processes=work.processes,
        )
    if not work.is_reported_here:
        return 0
    table.save(out)
    if not args.quiet:
        announce(
            f"{out}: noise of {plural(len(table.noise), 'tensor')} from "
            f"{plural(len(args.perturbed), 'perturbed run')}"
        )
    console = status_console() if page == STDOUT else output_console()
    if args.verbose:
        console.print(_kinds_table(table))
    if page is not None:
        text = render_tolerance(table, name=str(out))
        write_page(text, page, None if args.quiet else console)
    return 0


def _kinds_table(table: ToleranceTable) -> Table:
    rows = Table(title="noise over the value, by kind", title_justify="left")
    rows.add_column("kind")
    for name in ("tensors", "unchanged", "median", "largest"):
        rows.add_column(name, justify="right", no_wrap=True)
    for kind in by_kind(table):
        numbers = map(str, (kind.num_tensors, kind.num_silent))
        rows.add_row(kind.kind, *numbers, figure(kind.median), figure(kind.largest))
    return rows
