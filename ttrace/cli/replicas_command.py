"""``ttrace replicas``: the replicas within one trace, against each other."""

import argparse
import sys

from rich.table import Table

from ttrace.cli.program_backend import program_backend
from ttrace.cli.report_files import STDOUT, wanted_page, write_page
from ttrace.cli.terminal import output_console, progress_bar, status_console
from ttrace.ir.skipped_step import skipped_steps
from ttrace.judge.collectives import collective_faults
from ttrace.judge.verdicts.replicas import (
    ReplicaCheck,
    doubted_replicas,
    doubted_sentence,
)
from ttrace.pipeline import replicas
from ttrace.report.html.replicas_page import render_replicas
from ttrace.report.id_text import IdText
from ttrace.report.wording import MAX_ROWS, title_of
from ttrace.store.reader import open_trace


def run(args: argparse.Namespace) -> int:
    """Prints replicas that disagree, and collectives that gave something wrong.

    1 if there are any, 2 if nothing has replicas.
    """
    page = wanted_page(args)
    trace = open_trace(args.trace)
    with progress_bar("comparing replicas", quiet=args.quiet) as progress:
        checks = replicas(
            trace,
            tolerance=args.tolerance,
            backend=program_backend(args.backend),
            progress=progress,
        )
    bad = [check for check in checks if not check.agrees]
    doubted = doubted_replicas(checks)
    num_known = len(checks) - len(doubted)
    findings = collective_faults(trace, checks)
    console = status_console() if page == STDOUT else output_console()
    console.print(f"{num_known - len(bad)} of {num_known} tensors with replicas agree")
    if not args.quiet:
        if doubted:
            console.print(doubted_sentence(doubted), markup=False)
        for reason in skipped_steps(trace.info).values():
            console.print(f"{reason}; gradients of that step are not compared")
        if bad:
            console.print(_table(bad, sys.maxsize if args.verbose else MAX_ROWS))
        for finding in findings:
            console.print(f"{finding.code}: {finding.sentence}", markup=False)
    if page is not None:
        text = render_replicas(
            trace.name, trace.info, checks, is_measured=args.tolerance is not None
        )
        write_page(text, page, None if args.quiet else console)
    return 1 if bad or findings else 0


def _table(bad: list[ReplicaCheck], max_rows: int) -> Table:
    title = title_of("replicas that differ", len(bad), max_rows)
    table = Table(title=title, title_justify="left")
    table.add_column("tensor")
    table.add_column("spread", justify="right")
    table.add_column("allowed", justify="right")
    table.add_column("ranks", overflow="fold")
    for check in bad[:max_rows]:
        ranks = (
            f"{replica.rank} from {replica.against}" for replica in check.differing
        )
        table.add_row(
            IdText(text=str(check.record.id)),
            "incomplete sum" if check.cover.missing_partials else f"{check.spread:.3g}",
            "0" if check.exact else f"{check.allowed_spread:.3g}",
            ", ".join(ranks),
        )
    return table
