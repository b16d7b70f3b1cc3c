"""``ttrace judge``: a report judged again, without its traces."""

import argparse

from ttrace.cli.report_files import detail_from, emit_report, wanted_reports
from ttrace.report.report_file import report_path
from ttrace.reports import judge_again


def run(args: argparse.Namespace) -> int:
    """Prints the report; the exit code is its verdict."""
    files = wanted_reports(args, source=report_path(args.report))
    report = judge_again(
        args.report,
        multiplier=args.multiplier,
        tolerance=args.tolerance,
        allow=args.allow,
        allow_file=args.allow_file,
    )
    emit_report(report, files, detail=detail_from(args))
    return report.verdict.exit_code
