"""Runs a step with XLA rounding wherever the program says so, and changes nothing else.

What ``strict`` asks of a step that is not recorded: it has to be compiled as those that
are, for their bits to be the same.
"""

import functools
from collections.abc import Callable
from typing import Any

from ttrace.frontends.jax_parts import private_jax


class StrictStep:
    """A training step without excess precision; use it like the step itself.

    What else the step has, such as ``lower`` of a jitted function, it has too.

    Args:
        step: The step.
    """

    def __init__(self, step: Callable[..., Any]):
        functools.update_wrapper(self, step, updated=())
        self._step = step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the step.

        Raises:
            UsageError: A transformation of JAX is on.
        """
        with private_jax.intercepting(
            _leave_to_jax,
            key="strict",
            added_options=private_jax.NO_EXCESS_PRECISION,
        ):
            return self._step(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


def _leave_to_jax(*_: Any) -> Any:
    return NotImplemented
