"""Switching something on for a while: one at a time, and nothing stays behind."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ttrace.errors import UsageError
from ttrace.ir.kinds import Kind
from ttrace.recording.faults import reason_of

_on: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """Something that could not be tapped.

    Attributes:
        what: The class of a module, or what else it is.
        kind: Kind of the values that are missing; None for all that a module has.
        reason: Why; one sentence, without a full stop.
    """

    what: str
    kind: Kind | None = None
    reason: str


def tapped_or_as_it_is(
    value: Any, tap: Callable[[Any], Any], *, what: str, missed: list[Missed]
) -> Any:
    """Names what is in a value, unless that fails: the step goes on without.

    Args:
        value: Any value of the step.
        tap: Names what is in it; what it returns takes the value's place.
        what: As in ``Missed``.
        missed: Gets the reason where it fails.
    """
    try:
        return tap(value)
    except Exception as error:
        note(missed, Missed(what=what, reason=reason_of(error, "name its values")))
        return value


def note(missed: list[Missed], entry: Missed) -> None:
    """Adds what could not be tapped, unless it is there already."""
    if entry not in missed:
        missed.append(entry)


class OneThread:
    """Whether code runs in the thread that switched the taps on.

    What is patched is seen by all threads, but only one traces the user's step.
    """

    def __init__(self):
        self._thread = threading.get_ident()

    def is_here(self) -> bool:
        """Whether the caller is in that thread."""
        return threading.get_ident() == self._thread


@contextlib.contextmanager
def exclusively(what: str) -> Iterator[None]:
    """Lets nobody else switch the same thing on.

    Args:
        what: A plural, for the message.

    Raises:
        UsageError: It is on.
    """
    if what in _on:
        raise UsageError(
            f"{what} are on already: a traced step calls another traced step, or runs "
            "in two threads",
            remedy="give jax_capture.trace the outermost step only",
        )
    _on.add(what)
    try:
        yield
    finally:
        _on.discard(what)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives a module or a class another attribute for a while.

    Args:
        owner: Has the attribute itself; what a class inherits is not replaced.
        name: Its name.
        value: What it is meanwhile.
    """
    original = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def everywhere(function: Any, replacement: Any) -> Iterator[None]:
    """Gives every module that has a function another one for a while.

    A script may have said ``from optax import apply_updates``.

    Args:
        function: What to look for in the modules that are loaded.
        replacement: What they have meanwhile.
    """
    with contextlib.ExitStack() as stack:
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            for name, value in list(names.items()):
                if value is function:
                    stack.enter_context(replaced(module, name, replacement))
        yield
