"""The files that a command writes: refused before the work, written after it."""

import argparse
from pathlib import Path

from rich.console import Console

from ttrace.errors import UsageError
from ttrace.report.model import Report
from ttrace.report.renderers import RENDERERS, load_renderer
from ttrace.report.text import print_report_path
from ttrace.store.output_file import require_writable, write_output


def require_report_file(path: Path, *, option: str) -> None:
    """Refuses, before any work, a file that could not be written after it.

    Raises:
        UsageError: Its folder does not exist.
        StorageFullError: It could not be written.
    """
    if not path.parent.is_dir():
        raise UsageError(
            f"the folder for the file of {option} does not exist",
            where=path,
            remedy="make the folder first, or correct the path",
        )
    require_writable(path)


def wanted_reports(args: argparse.Namespace) -> dict[str, Path]:
    """The files that the options ask for, by name of the format.

    Raises:
        UsageError: The folder of one does not exist.
        StorageFullError: One could not be written.
    """
    wanted = {name: Path(file) for name in RENDERERS if (file := getattr(args, name))}
    for name, path in wanted.items():
        require_report_file(path, option=f"--{name}")
    return wanted


def write_reports(report: Report, files: dict[str, Path], console: Console) -> None:
    """Writes a report in every format that is wanted, and says where.

    Raises:
        StorageFullError: A file could not be written.
    """
    for name, path in files.items():
        write_output(path, load_renderer(name)(report))
        print_report_path(path, console)
