"""What a long job is at, for who waits for it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable


@runtime_checkable
class StageObserver(Protocol):
    """Is told what begins, and when that has ended well.

    A plain function of one text is told no more than what begins.
    """

    def __call__(self, words: str, /) -> None:
        """A stage begins."""
        ...

    def end(self) -> None:
        """It has ended; what follows belongs to no stage until the next one begins."""
        ...


@contextlib.contextmanager
def stage(on_stage: Callable[[str], None], words: str) -> Iterator[None]:
    """Tells an observer of a stage; of one that raises, only that it began.

    Args:
        on_stage: Told what begins, in words.
        words: What begins.
    """
    on_stage(words)
    yield
    if isinstance(on_stage, StageObserver):
        on_stage.end()
