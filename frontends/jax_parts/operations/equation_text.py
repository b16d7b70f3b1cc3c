"""What an equation takes besides arrays, in words."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

_UNTOLD = frozenset(
    {
        "accuracy",
        "copy_semantics",
        "debug",
        "indices_are_sorted",
        "inplace",
        "name",
        "out_sharding",
        "sharding",
        "source_info",
        "unique_indices",
        "weak_type",
    }
)
"""Parameters that say nothing of the values."""

_SIZES = frozenset(
    {
        "dimension",
        "dimensions",
        "limit_indices",
        "new_sizes",
        "padding_config",
        "shape",
        "sizes",
        "slice_sizes",
        "start_indices",
        "strides",
        "window_dimensions",
        "window_strides",
    }
)
"""Parameters that hold numbers of elements, which layouts differ in."""

_MAX_TEXT = 120

_PAIR = ("left", "right")


def constants_of(eqn: jex_core.JaxprEqn) -> tuple[str, ...]:
    """Literals by their place, and the parameters of a primitive that matter.

    Numbers of elements stand in square brackets, such as ``shape=[2, 4]``.
    """
    return (*_literals(eqn), *_params(eqn))


def _literals(eqn: jex_core.JaxprEqn) -> Iterator[str]:
    for position, atom in enumerate(eqn.invars):
        if isinstance(atom, jex_core.Literal):
            is_pair = len(eqn.invars) == 2
            name = _PAIR[position] if is_pair else f"operand {position}"
            if len(eqn.invars) == 1:
                name = "value"
            yield f"{name}={_number(atom)}"


def _number(literal: jex_core.Literal) -> str:
    """As short as its dtype needs it: ``0.1``, not ``0.10000000149011612``."""
    value = literal.val
    dtype = getattr(literal.aval, "dtype", None)
    try:
        return str(np.asarray(value).astype(dtype)[()])
    except (TypeError, ValueError):
        return str(value)


def _params(eqn: jex_core.JaxprEqn) -> Iterator[str]:
    for name, value in eqn.params.items():
        if name in _UNTOLD or value is None or not _is_plain(value):
            continue
        text = _text(value)
        if name in _SIZES and isinstance(value, tuple):
            text = f"[{', '.join(map(_text, value))}]"
        if len(text) <= _MAX_TEXT:
            yield f"{name}={text}"


def _is_plain(value: Any) -> bool:
    """Whether a parameter is a number, a text, a dtype or made of these."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return True
    if isinstance(value, np.dtype | type):
        return True
    return type(value).__module__.startswith("jax") and (
        hasattr(value, "name") or isinstance(value, jax.lax.GatherScatterMode)
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(map(_text, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, type):
        return value.__name__
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else str(value)
