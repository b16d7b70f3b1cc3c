"""What a long job is at, for who waits for it, and how long that may take.

How long is said only after what ran before: of a user's command nothing else is known.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What tells how long a stage may take: an earlier run of its kind.

    Attributes:
        what: Ran before, e.g. ``the reference``.
        took_s: How long it took, in seconds.
    """

    what: str
    took_s: float


@runtime_checkable
class StageObserver(Protocol):
    """Is told what begins, how long that may take, and when it has ended well.

    A plain function of one text is told no more than what begins.
    """

    def begin(self, words: str, expected: Expectation | None) -> None:
        """A stage begins.

        Args:
            words: What begins.
            expected: What tells how long it may take; None where nothing does.
        """
        ...

    def end(self) -> None:
        """It has ended; what follows belongs to no stage until the next one begins."""
        ...


OnStage = Callable[[str], None] | StageObserver
"""Who is told of the stages of a job."""


class Stages:
    """The stages of one job, and how long its runs took.

    Args:
        on_stage: Told what begins.
    """

    def __init__(self, on_stage: OnStage):
        self._on_stage = on_stage
        self._took_s: dict[str, float] = {}

    def say(self, words: str) -> None:
        """Tells of what takes no time."""
        with self.stage(words):
            pass

    @contextlib.contextmanager
    def stage(self, words: str, *, like: tuple[str, ...] = ()) -> Iterator[None]:
        """Tells of a stage; of one that raises, only that it began.

        Args:
            words: What begins.
            like: Runs that may have taken as long, the most alike first.
        """
        observer = self._on_stage
        if not isinstance(observer, StageObserver):
            observer(words)
            yield
            return
        observer.begin(words, self._expected(like))
        yield
        observer.end()

    @contextlib.contextmanager
    def run(
        self, words: str, *, name: str, like: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """Tells of a stage that is one run, and keeps how long it took.

        Args:
            words: What begins.
            name: Of the run, as later stages name it in ``like``.
            like: As for ``stage``.
        """
        started = time.monotonic()
        with self.stage(words, like=like):
            yield
        self._took_s[name] = time.monotonic() - started

    def _expected(self, like: tuple[str, ...]) -> Expectation | None:
        for name in like:
            if name in self._took_s:
                return Expectation(what=name, took_s=self._took_s[name])
        return None
