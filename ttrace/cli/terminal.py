"""What the subcommands share on the terminal: consoles, sizes, one bar."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ttrace.ir.capture_filter import CaptureFilter, require_recordable

_WIDTH_WITHOUT_TERMINAL = 120
"""Columns where no terminal says: wide enough for a table in a CI log."""

_QUIET_S = 2.0
"""A progress bar appears for what takes longer."""


def output_console() -> Console:
    """The console for results."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_WITHOUT_TERMINAL)
    return console


def size_text(num_bytes: int) -> str:
    """E.g. ``1.2 GB``."""
    size, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    if unit == "bytes":
        return "1 byte" if num_bytes == 1 else f"{num_bytes} bytes"
    return f"{size:.1f} {unit}"


def status_console() -> Console:
    """The console for what is going on; standard error, so that results stay clean."""
    return Console(stderr=True, highlight=False)


def announce(message: str) -> None:
    """Says what begins."""
    status_console().print(f"ttrace: {message}", soft_wrap=True, markup=False)


@contextlib.contextmanager
def progress_bar(
    what: str, *, quiet: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback (done, total) that draws a bar after two seconds.

    Nothing is drawn where standard error is no terminal.

    Args:
        what: Is done.
        quiet: Draw nothing at all.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=status_console(),
        transient=True,
    )
    task = bar.add_task(what, total=None)
    started = time.monotonic()
    live = False

    def update(done: int, total: int) -> None:
        nonlocal live
        if not live and time.monotonic() - started > _QUIET_S:
            live = bar.console.is_terminal and not quiet
            if live:
                bar.start()
        if live:
            bar.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if live:
            bar.stop()


def capture_from(args: argparse.Namespace) -> CaptureFilter:
    """The capture filter that the options describe.

    Raises:
        UsageError: A kind or a range is malformed, or nothing records a kind.
    """
    names = ("modules", "kinds", "steps", "microbatches", "ranks")
    options = {name: getattr(args, name) for name in names}
    capture = CaptureFilter.from_json(
        {name: text for name, text in options.items() if text is not None}
    )
    require_recordable(capture.kinds or ())
    return capture
