"""The stages of a job on the terminal: what begins, how far it is, how long it took.

How much time remains is told from what ran before, or from how fast the stage itself
goes on; where neither is known, only the time that has passed is shown.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ttrace.cli.terminal import announce, status_console
from ttrace.launch.stages import Expectation

_BRIEF_S = 0.1
"""How long a stage took is said of what takes longer."""

_DRAWN_AFTER_S = 2.0
"""A stage that takes longer is drawn."""

_REFRESHES_PER_S = 2
"""Of the line that is drawn: commands that are measured need the processor."""

_BAR_WIDTH = 20


@contextlib.contextmanager
def stage_display(*, quiet: bool = False) -> Iterator["StageDisplay"]:
    """Yields the display of a job's stages.

    An exception stops the stage that is running, if one is; not one that has ended.

    Args:
        quiet: Show nothing.
    """
    display = StageDisplay(quiet=quiet)
    try:
        yield display
    except BaseException:
        display.end("stopped")
        raise
    display.end()


class StageDisplay:
    """A ``StageObserver`` that says all on standard error.

    Where that is a terminal, a line below shows how far the running stage is.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool):
        self._is_quiet = quiet
        self._running: _Running | None = None
        self._live: Live | None = None

    def begin(self, words: str, expected: Expectation | None) -> None:
        """Says what begins, after the end of what was running."""
        self.end()
        if self._is_quiet:
            return
        before = ""
        if expected is not None and expected.took_s >= _BRIEF_S:
            before = f" ({expected.what} took {expected.took_s:.1f} s)"
        announce(words + before)
        self._running = _Running(words=words, expected=expected)
        console = status_console()
        if console.is_interactive:
            self._live = Live(
                get_renderable=self._running.drawn,
                console=console,
                refresh_per_second=_REFRESHES_PER_S,
                transient=True,
            )
            self._live.start()

    def progress(self, done: int, total: int) -> None:
        """Takes how much of the running stage is done, in elements of tensors."""
        if self._running is not None:
            self._running.advance(done, total)

    def end(self, how: str = "done") -> None:
        """Says how the running stage has ended, and after how long."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._running is None:
            return
        running, self._running = self._running, None
        if running.passed_s >= _BRIEF_S:
            announce(f"{running.words}: {how} after {running.passed_s:.1f} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """How much of a stage is done.

    Attributes:
        since_s: When its first part was done, by the clock.
        first: How much that was, in elements.
        done: How much is done by now.
        total: Of how much.
    """

    since_s: float
    first: int
    done: int
    total: int


class _Running:
    """A stage that is running."""

    def __init__(self, *, words: str, expected: Expectation | None):
        self.words = words
        self._expected = expected
        self._started_s = time.monotonic()
        self._part: _Part | None = None

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._started_s

    def advance(self, done: int, total: int) -> None:
        """Takes how much is done; less, or of another total, begins anew."""
        part = self._part
        if part is None or part.total != total or done < part.done:
            part = _Part(since_s=time.monotonic(), first=done, done=done, total=total)
        self._part = _Part(
            since_s=part.since_s, first=part.first, done=done, total=total
        )

    def drawn(self) -> RenderableType:
        """The line for the terminal; nothing while the stage is young."""
        passed_s = self.passed_s
        if passed_s < _DRAWN_AFTER_S:
            return Group()
        line = Table.grid(padding=(0, 1))
        share = self._share(passed_s)
        words = f"{clock_text(passed_s)} so far{self._remaining(passed_s)}"
        if share is None:
            line.add_row(" ", words)
        else:
            bar = ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH)
            line.add_row(" ", bar, words)
        return line

    def _share(self, passed_s: float) -> float | None:
        """How much of the stage is done, as far as anything tells."""
        if self._part is not None:
            return self._part.done / max(self._part.total, 1)
        if self._expected is None:
            return None
        return min(1.0, passed_s / max(self._expected.took_s, _BRIEF_S))

    def _remaining(self, passed_s: float) -> str:
        part = self._part
        if part is not None:
            if part.done >= part.total:
                return ", all is read"
            if part.done == part.first:
                return ""
            per_element_s = (time.monotonic() - part.since_s) / (part.done - part.first)
            return _left(per_element_s * (part.total - part.done))
        if self._expected is None:
            return ""
        left_s = self._expected.took_s - passed_s
        if left_s <= 0:
            return f", longer than {self._expected.what}"
        return f"{_left(left_s)} if it takes as long"


def _left(seconds: float) -> str:
    return f", about {clock_text(seconds)} left"


def clock_text(seconds: float) -> str:
    """E.g. ``0:07`` or ``1:02:30``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
