"""Keeps ttrace's faults in explaining a divergence out of the verdict."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from absl import logging

from ttrace.errors import TtraceError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


def explained(
    find: Callable[_P, _Result], otherwise: _Result, *args: _P.args, **kwargs: _P.kwargs
) -> _Result:
    """What a search for a cause finds.

    An exception, which is a fault of ttrace, becomes a warning in the log: the verdict
    does not rest on an explanation.

    Args:
        find: Looks for one cause.
        otherwise: What is returned where it fails.
        *args: What it is given.
        **kwargs: Likewise.

    Raises:
        TtraceError: What a user can mend, such as a corrupt trace.
    """
    try:
        return find(*args, **kwargs)
    except TtraceError:
        raise
    except Exception as error:
        warn_of_fault(find, error)
        return otherwise


def warn_of_fault(find: Callable[..., object], error: Exception) -> None:
    """Says what failed; the comparison goes on."""
    logging.warning(
        "ttrace: %s of the diagnosis failed with %s: %s. The verdict does not depend "
        "on it; this is a fault of ttrace: please report it",
        find.__name__,
        type(error).__name__,
        error,
        exc_info=error,
    )
