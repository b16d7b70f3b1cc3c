"""What the subcommands share on the terminal: consoles, stages, progress."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ttrace.ir.capture_filter import CaptureFilter

_WIDTH_WITHOUT_TERMINAL = 120
"""Columns where no terminal says: wide enough for a table in a CI log."""

_QUIET_S = 2.0
"""A progress bar appears for what takes longer."""


_BRIEF_S = 0.1
"""How long a stage took is said of what takes longer."""


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
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def status_console() -> Console:
    """The console for what is going on; standard error, so that results stay clean."""
    return Console(stderr=True, highlight=False)


def announce(message: str) -> None:
    """Says what begins."""
    status_console().print(f"ttrace: {message}", soft_wrap=True, markup=False)


@contextlib.contextmanager
def stages(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Yields a ``StageObserver`` that says what begins, and how long it has taken.

    An exception stops the stage that is running, if one is; not one that has ended.

    Args:
        quiet: Say nothing.
    """
    if quiet:
        yield lambda message: None
        return
    observer = _SaidStages()
    try:
        yield observer
    except BaseException:
        observer.end("stopped")
        raise
    observer.end()


class _SaidStages:
    """A ``StageObserver`` that says all on standard error."""

    def __init__(self):
        self._running: tuple[str, float] | None = None

    def __call__(self, words: str, /) -> None:
        self.end()
        announce(words)
        self._running = words, time.monotonic()

    def end(self, how: str = "done") -> None:
        """Says how the running stage has ended, and after how long."""
        if self._running is None:
            return
        words, started = self._running
        self._running = None
        took_s = time.monotonic() - started
        if took_s >= _BRIEF_S:
            announce(f"{words}: {how} after {took_s:.1f} s")


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
        UsageError: A kind or a range is malformed.
    """
    names = ("modules", "kinds", "steps", "microbatches", "ranks")
    options = {name: getattr(args, name) for name in names}
    return CaptureFilter.from_json(
        {name: text for name, text in options.items() if text is not None}
    )
