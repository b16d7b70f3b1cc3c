"""The files that a command writes: refused before the work, written after it."""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

from ttrace.cli.terminal import output_console, status_console
from ttrace.errors import StorageFullError, TtraceError, UsageError
from ttrace.report.failed_job import report_of_error
from ttrace.report.model import Report
from ttrace.report.renderers import RENDERERS, load_renderer, require_packages
from ttrace.report.text import Detail, print_report, print_report_path
from ttrace.store.output_file import require_writable, write_output

STDOUT = Path("-")
"""In place of a file: standard output."""


def wanted_reports(
    args: argparse.Namespace, *, source: Path | None = None, own: Path | None = None
) -> dict[str, Path]:
    """The files that the options ask for, by name of the format.

    Args:
        args: With the options of ``add_report_files``.
        source: What the command reads; none may replace it.
        own: Where the command writes its report as JSON by itself; none of another
            format may replace that.

    Raises:
        UsageError: The folder of one does not exist, several are to go to standard
            output or to one file, or one would replace a file of the command.
        StorageFullError: One could not be written.
        MissingExtraError: A format needs a package that is not installed.
    """
    wanted = {name: Path(file) for name in RENDERERS if (file := getattr(args, name))}
    for name in wanted:
        require_packages(name)
    to_stdout = [f"--{name}" for name, path in wanted.items() if path == STDOUT]
    if len(to_stdout) > 1:
        raise UsageError(
            "two reports cannot both go to standard output",
            where=" and ".join(to_stdout),
            remedy="give a file in place of one '-'",
        )
    files = {name: path for name, path in wanted.items() if path != STDOUT}
    _require_distinct(files)
    for name, path in files.items():
        is_own = own is not None and name != "json" and _is_same(path, own)
        if is_own or (source is not None and _is_same(path, source)):
            raise UsageError(
                "a report would replace the JSON file that it is made from",
                where=f"--{name}",
                got=path,
                remedy="give it a file of its own",
            )
        require_writable(path, asked_by=f"--{name}")
    return wanted


def require_other_file(path: Path, sources: Iterable[Path]) -> None:
    """Refuses to write over what a command reads.

    Raises:
        UsageError: It would.
    """
    if any(_is_same(path, source) for source in sources):
        raise UsageError(
            "what is found would replace a report that it is made from",
            where="--json",
            got=path,
            remedy="give it a file of its own",
        )


def _require_distinct(files: Mapping[str, Path]) -> None:
    """Refuses two reports in one file, of which the second would replace the first."""
    for (one, path), (other, another) in itertools.combinations(files.items(), 2):
        # A device, such as /dev/null, takes any number of them.
        if _is_same(path, another) and (path.is_file() or not path.exists()):
            raise UsageError(
                "two reports cannot both go to one file",
                where=f"--{one} and --{other}",
                got=path,
                remedy="give each a file of its own",
            )


def _is_same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def result_console(files: Mapping[str, Path]) -> Console:
    """The console for the result: standard error where a report takes the output."""
    return status_console() if STDOUT in files.values() else output_console()


def detail_from(args: argparse.Namespace) -> Detail:
    """How much of a report the options of ``add_verbosity`` ask for."""
    if args.quiet:
        return Detail.BRIEF
    return Detail.FULL if args.verbose else Detail.USUAL


def emit_report(
    report: Report,
    files: Mapping[str, Path],
    *,
    json_path: Path | None = None,
    detail: Detail = Detail.USUAL,
) -> None:
    """Prints a report, and writes it in every format that is wanted.

    Args:
        report: The report.
        files: From ``wanted_reports``.
        json_path: Where it lies as JSON already, to be said; None for nowhere.
        detail: How much is printed; in brief, no file is named.

    Raises:
        StorageFullError: A file could not be written.
    """
    console = result_console(files)
    is_brief = detail is Detail.BRIEF
    try:  # printed first: a full disk must not take the verdict along
        json_path = None if is_brief else json_path
        print_report(report, console, json_path=json_path, detail=detail)
    finally:  # and a reader that has gone, such as 'head', not the files
        write_reports(report, files)
    for path in files.values():
        if path != STDOUT and not is_brief:
            print_report_path(path, console)


def write_reports(report: Report, files: Mapping[str, Path]) -> None:
    """Writes a report in every format that is wanted.

    Raises:
        StorageFullError: A file could not be written.
    """
    for name, path in files.items():
        content = load_renderer(name)(report)
        if path != STDOUT:
            write_output(path, content)
        elif isinstance(content, bytes):
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)


@contextlib.contextmanager
def reported_errors(
    files: Mapping[str, Path], *, backend: str, own: Path | None = None
) -> Iterator[None]:
    """Writes the wanted reports also where an error leaves nothing to compare.

    Says where they lie, as after a comparison.

    Args:
        files: From ``wanted_reports``.
        backend: Name of what would have computed the figures.
        own: Where the command writes its report as JSON by itself, also after errors
            of the work itself.
    """
    before = _written_at(own)
    try:
        yield
    except TtraceError as error:
        console = result_console(files)
        if own is not None and _written_at(own) != before:
            print_report_path(own, console)
        with contextlib.suppress(StorageFullError):  # the error itself is said
            write_reports(report_of_error(error, backend=backend), files)
            for path in files.values():
                if path != STDOUT:
                    print_report_path(path, console)
        raise


def _written_at(path: Path | None) -> int | None:
    """When a file was written, in nanoseconds; None where there is none."""
    try:
        return None if path is None else path.stat().st_mtime_ns
    except OSError:
        return None


def wanted_page(args: argparse.Namespace, *, own: Path | None = None) -> Path | None:
    """The file of ``--html``, where a command has no other format; None for none.

    Args:
        args: With the option of ``add_page``.
        own: What the command writes by itself.

    Raises:
        UsageError: Its folder does not exist, or it would replace ``own``.
        StorageFullError: It could not be written.
    """
    if args.html is None:
        return None
    path = Path(args.html)
    if own is not None and _is_same(path, own):
        raise UsageError(
            "the page would replace the file that it is made from",
            where="--html",
            got=path,
            remedy="give it a file of its own",
        )
    if path != STDOUT:
        require_writable(path, asked_by="--html")
    return path


def write_page(text: str, path: Path, console: Console | None) -> None:
    """Writes a page, and says where it lies; not without a console.

    Raises:
        StorageFullError: It could not be written.
    """
    if path == STDOUT:
        sys.stdout.write(text)
        return
    write_output(path, text)
    if console is not None:
        print_report_path(path, console)
