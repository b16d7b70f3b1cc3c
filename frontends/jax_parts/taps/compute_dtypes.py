"""In which dtypes a step lets its modules compute, where they or a policy say so.

Modules of flax have a ``param_dtype``, and a ``dtype`` to which they cast what they are
given. ``jmp.Policy`` casts by hand.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from ttrace.frontends.jax_parts.taps.patching import Missed, exclusively, replaced
from ttrace.frontends.jax_parts.taps.stated import Stated

SETTING = "compute_dtypes"

OFF = "off"
"""Said by modules that compute in the dtype of their parameters."""


def say_dtypes(module: Any, stated: Stated) -> None:
    """Says in which dtype a module computes, if it says so itself.

    Args:
        module: Of any package.
        stated: Is told.
    """
    params = _dtype_name(getattr(module, "param_dtype", None))
    if params is None:
        return
    compute = _dtype_name(getattr(module, "dtype", None))
    _say(stated, compute, params)


def _say(stated: Stated, compute: str | None, params: str) -> None:
    if compute in (None, params):
        stated.say(SETTING, OFF)
    else:
        stated.say(SETTING, f"{compute} (parameters {params})")


def _dtype_name(value: Any) -> str | None:
    """None of what is no dtype: a module may call anything so."""
    if value is None:
        return None
    try:
        return jnp.dtype(value).name
    except TypeError:
        return None


@contextlib.contextmanager
def jmp_taps(stated: Stated) -> Iterator[list[Missed]]:
    """Says what policies of ``jmp`` cast to, while a step is traced.

    Args:
        stated: Is told.

    Yields:
        An empty list: nothing is tapped.

    Raises:
        UsageError: The taps are on already.
    """
    import jmp  # pyright: ignore[reportMissingImports]

    original = vars(jmp.Policy)["cast_to_compute"]

    @functools.wraps(original)
    def cast_to_compute(policy: Any, *args: Any, **kwargs: Any) -> Any:
        params = _dtype_name(getattr(policy, "param_dtype", None))
        if params is not None:
            _say(stated, _dtype_name(getattr(policy, "compute_dtype", None)), params)
        return original(policy, *args, **kwargs)

    with (
        exclusively("the taps on policies of jmp"),
        replaced(jmp.Policy, "cast_to_compute", cast_to_compute),
    ):
        yield []
