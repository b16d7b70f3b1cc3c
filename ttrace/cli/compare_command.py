"""``ttrace compare``: two recorded traces, or checkpoints in place of them."""

import argparse

from ttrace.cli.report_files import wanted_reports, write_reports
from ttrace.cli.terminal import output_console, progress_bar
from ttrace.pipeline import compare
from ttrace.report.text import print_report


def run(args: argparse.Namespace) -> int:
    """Prints the report; the exit code is its verdict."""
    files = wanted_reports(args)
    with progress_bar("comparing") as progress:
        report = compare(
            args.reference,
            args.candidate,
            tolerance=args.tolerance,
            multiplier=args.multiplier,
            map=args.map,
            allow=args.allow,
            allow_uncovered=args.allow_uncovered,
            strict_structure=args.strict_structure,
            backend=args.backend,
            progress=progress,
        )
    console = output_console()
    print_report(report, console)
    # Printed first: a full disk must not take the verdict along.
    write_reports(report, files, console)
    return report.verdict.exit_code
