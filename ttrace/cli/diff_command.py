"""``ttrace diff``: what is new in a report since an earlier one."""

import argparse
import sys
from pathlib import Path

from ttrace.cli.report_files import STDOUT, detail_from, require_other_file
from ttrace.cli.terminal import output_console, status_console
from ttrace.report.diff_text import render_diff
from ttrace.report.report_file import report_path
from ttrace.report.text import Detail, print_report_path
from ttrace.reports import diff_reports
from ttrace.store.output_file import require_writable, write_output


def run(args: argparse.Namespace) -> int:
    """Prints what is new; 1 if anything got worse."""
    json_path = None if args.json is None else Path(args.json)
    if json_path is not None and json_path != STDOUT:
        require_other_file(json_path, map(report_path, (args.old, args.new)))
        require_writable(json_path, asked_by="--json")
    diff = diff_reports(
        args.old, args.new, factor=args.factor, least_margin=args.least_margin
    )
    console = status_console() if json_path == STDOUT else output_console()
    detail = detail_from(args)
    console.print(render_diff(diff, detail=detail))
    if json_path == STDOUT:
        sys.stdout.write(diff.json_text())
    elif json_path is not None:
        write_output(json_path, diff.json_text())
        if detail is not Detail.BRIEF:
            print_report_path(json_path, console)
    return 1 if diff.is_worse else 0
