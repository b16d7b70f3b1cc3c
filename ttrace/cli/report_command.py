"""``ttrace report``: a report that was written as JSON, in another form."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ttrace.cli.report_files import (
    STDOUT,
    detail_from,
    result_console,
    wanted_reports,
    write_reports,
)
from ttrace.cli.terminal import announce, output_console
from ttrace.errors import UsageError
from ttrace.pipeline import load_report
from ttrace.report.model import Report
from ttrace.report.report_file import report_path
from ttrace.report.text import print_report, print_report_path
from ttrace.report.trackers.table import TRACKERS, load_tracker


def run(args: argparse.Namespace) -> int:
    """Writes what the options ask for, or prints the text; 0 whatever the verdict."""
    files = wanted_reports(args, source=report_path(args.report))
    report = load_report(args.report)
    logs = {name: Path(given) for name in TRACKERS if (given := getattr(args, name))}
    _log(report, logs, quiet=args.quiet)
    if not files and not logs:
        print_report(report, output_console(), detail=detail_from(args))
        return 0
    write_reports(report, files)
    console = result_console(files)
    for path in files.values():
        if path != STDOUT and not args.quiet:
            print_report_path(path, console)
    return 0


def _log(report: Report, folders: Mapping[str, Path], *, quiet: bool) -> None:
    trackers = {name: load_tracker(name) for name in folders}
    for name, folder in folders.items():
        _make_folder(folder, asked_by=f"--{name}")
        trackers[name](report, folder)
        if not quiet:
            announce(f"logged for {name}: {folder}")


def _make_folder(folder: Path, *, asked_by: str) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder of {asked_by} cannot be made",
            where=folder,
            got=error.strerror,
            remedy="make the folder around it first, or correct the path",
        ) from error
