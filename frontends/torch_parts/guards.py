"""Keeps ttrace's faults out of the training script: the guard of every hook.

Under Dynamo hooks do nothing: what they would do cannot be part of a compiled graph.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from ttrace.recording.faults import reason_of
from ttrace.recording.said_warnings import warn

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

_warned: set[str] = set()


def guarded(
    doing: str,
) -> Callable[[Callable[_P, _Result]], Callable[_P, _Result | None]]:
    """Decorates what a training script runs without knowing: hooks and the like.

    An exception becomes one warning in the log of the process for each ``doing``, and
    None, which leaves alone what a hook may replace. Nothing runs while
    ``torch.compile`` traces.

    Args:
        doing: What the hook is for, e.g. ``record the gradients``.
    """

    def decorate(hook: Callable[_P, _Result]) -> Callable[_P, _Result | None]:
        @functools.wraps(hook)
        def safe(*args: Any, **kwargs: Any) -> _Result | None:
            if torch.compiler.is_compiling():
                return None
            try:
                return hook(*args, **kwargs)
            except Exception as error:
                warn_of_fault(doing, error)
                return None

        return safe

    return decorate


def warn_of_fault(doing: str, error: Exception) -> None:
    """Says once in the log what ttrace failed at; the training goes on.

    Args:
        doing: What ttrace was about to do.
        error: What was raised.
    """
    if doing not in _warned:
        _warned.add(doing)
        warn(
            f"{reason_of(error, doing)}. Training goes on; what this concerns is not "
            "recorded. Further faults of this kind are not reported."
        )
