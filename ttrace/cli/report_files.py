"""The files that a command writes: refused before the work, written after it."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from ttrace.cli.terminal import output_console, status_console
from ttrace.errors import StorageFullError, TtraceError, UsageError
from ttrace.report.failed_job import report_of_error
from ttrace.report.model import Report
from ttrace.report.renderers import RENDERERS, load_renderer
from ttrace.report.text import print_report, print_report_path
from ttrace.store.output_file import require_writable, write_output

STDOUT = Path("-")
"""In place of a file: standard output."""


def wanted_reports(args: argparse.Namespace) -> dict[str, Path]:
    """The files that the options ask for, by name of the format.

    Raises:
        UsageError: The folder of one does not exist, or several are to go to one file
            or to standard output.
        StorageFullError: One could not be written.
    """
    wanted = {name: Path(file) for name in RENDERERS if (file := getattr(args, name))}
    to_stdout = [f"--{name}" for name, path in wanted.items() if path == STDOUT]
    if len(to_stdout) > 1:
        raise UsageError(
            "two reports cannot both go to standard output",
            where=" and ".join(to_stdout),
            remedy="give a file in place of one '-'",
        )
    places: dict[Path, str] = {}
    for name, path in wanted.items():
        first = places.setdefault(path.resolve(), f"--{name}")
        if path != STDOUT and first != f"--{name}":
            raise UsageError(
                "two reports cannot both go to one file",
                where=f"{first} and --{name}",
                got=path,
                remedy="give each a file of its own",
            )
        if path != STDOUT:
            require_writable(path, asked_by=f"--{name}")
    return wanted


def result_console(files: Mapping[str, Path]) -> Console:
    """The console for the result: standard error where a report takes the output."""
    return status_console() if STDOUT in files.values() else output_console()


def emit_report(
    report: Report, files: Mapping[str, Path], *, json_path: Path | None = None
) -> None:
    """Prints a report, and writes it in every format that is wanted.

    Args:
        report: The report.
        files: From ``wanted_reports``.
        json_path: Where it lies as JSON already, to be said; None for nowhere.

    Raises:
        StorageFullError: A file could not be written.
    """
    console = result_console(files)
    try:  # printed first: a full disk must not take the verdict along
        print_report(report, console, json_path=json_path)
    finally:  # and a reader that has gone, such as 'head', not the files
        write_reports(report, files)
    for path in files.values():
        if path != STDOUT:
            print_report_path(path, console)


def write_reports(report: Report, files: Mapping[str, Path]) -> None:
    """Writes a report in every format that is wanted.

    Raises:
        StorageFullError: A file could not be written.
    """
    for name, path in files.items():
        text = load_renderer(name)(report)
        if path == STDOUT:
            sys.stdout.write(text)
        else:
            write_output(path, text)


@contextlib.contextmanager
def reported_errors(files: Mapping[str, Path], *, backend: str) -> Iterator[None]:
    """Writes the wanted reports also where an error leaves nothing to compare.

    Args:
        files: From ``wanted_reports``.
        backend: Name of what would have computed the figures.
    """
    try:
        yield
    except TtraceError as error:
        with contextlib.suppress(StorageFullError):  # the error itself is said
            write_reports(report_of_error(error, backend=backend), files)
        raise
