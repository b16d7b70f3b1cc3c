"""``ttrace report``: a report that was written as JSON, in another form."""

import argparse

from ttrace.cli.report_files import (
    STDOUT,
    detail_from,
    result_console,
    wanted_reports,
    write_reports,
)
from ttrace.cli.terminal import output_console
from ttrace.pipeline import load_report
from ttrace.report.report_file import report_path
from ttrace.report.text import print_report, print_report_path


def run(args: argparse.Namespace) -> int:
    """Writes what the options ask for, or prints the text; 0 whatever the verdict."""
    files = wanted_reports(args, source=report_path(args.report))
    report = load_report(args.report)
    if not files:
        print_report(report, output_console(), detail=detail_from(args))
        return 0
    write_reports(report, files)
    console = result_console(files)
    for path in files.values():
        if path != STDOUT and not args.quiet:
            print_report_path(path, console)
    return 0
