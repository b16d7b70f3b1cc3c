"""A call of a module, tapped: its arguments and what it returns."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jax.core import Tracer

from ttrace.frontends.jax_parts.taps.call_marks import marked
from ttrace.frontends.jax_parts.taps.patching import Missed, tapped_or_as_it_is
from ttrace.frontends.jax_parts.taps.sites import TapSite, value_site
from ttrace.frontends.jax_parts.taps.tap import is_tappable, tap_value
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.recording.slots import SlotWalk

_OPAQUE_BASES = (
    ("flax.linen", "Module"),
    ("flax.nnx", "Pytree"),
    ("flax.nnx", "Variable"),
    ("equinox", "Module"),
)
"""Classes whose instances are models and their parts, never values."""

_STATISTICS = frozenset({"batch_stats"})
"""What linen and nnx call running statistics; torch has them in buffers."""


_Values = tuple[Any, ...]


def _is_opaque(value: Any) -> bool:
    for module, name in _OPAQUE_BASES:
        base = getattr(sys.modules.get(module), name, None)
        if isinstance(base, type) and isinstance(value, base):
            return True
    return False


ARRAYS = SlotWalk(is_leaf=is_tappable, is_opaque=_is_opaque)
"""Names the arrays that modules take and return as the torch side names tensors."""


def tapped_call(
    path: str,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    is_root: bool,
    missed: list[Missed],
    method: str = "",
) -> Any:
    """Calls a module with its inputs and outputs tapped.

    Args:
        path: Module path; empty for the model itself.
        call: The module's own method, bound.
        args: Positional arguments.
        kwargs: Keyword arguments.
        is_root: The call is in no other module's call; its inputs get noise.
        missed: Gets what could not be tapped.
        method: Name that slots begin with, as in ``attend.0``; empty for the method
            that stands for the module itself.

    Returns:
        What the call returns, of the same structure.
    """
    prefix = f"{method}." if method else ""

    def tap_input(slot: str, value: Any) -> Any:
        site = value_site(path, Kind.INPUT, prefix + slot, noise=is_root)
        return tap_in_program(site, value)

    def tap_output(slot: str, value: Any) -> Any:
        return tap_in_program(value_site(path, Kind.OUTPUT, prefix + slot), value)

    def tapped(values: _Values, tap: Callable[[str, Any], Any]) -> _Values:
        return tapped_or_as_it_is(
            values,
            lambda values: _tapped_leaves(values, tap),
            what=path or ROOT_MODULE,
            missed=missed,
        )

    args, kwargs = tapped((args, dict(kwargs)), tap_input)
    with marked(path, method):
        (returned,) = tapped((call(*args, **kwargs),), tap_output)
    return returned


def _tapped_leaves(values: _Values, tap: Callable[[str, Any], Any]) -> _Values:
    """Structures with their arrays tapped, one that occurs twice by both names.

    It stays one array: its cotangent is that of all its uses under either name, as the
    gradient of a tensor that torch's modules are given twice is.
    """
    tapped: dict[int, Any] = {}

    def add(slot: str, leaf: Any) -> Any:
        tapped[id(leaf)] = tap(slot, tapped.get(id(leaf), leaf))
        return leaf

    for value in values:
        ARRAYS.map_leaves(value, add)
    return tuple(
        ARRAYS.map_leaves(value, lambda _, leaf: tapped[id(leaf)]) for value in values
    )


def tap_state(path: str, group: str, name: str, value: Any) -> Any:
    """Names what a call has left in a variable of its module: another output of it.

    Running statistics, counters and caches reach the results of later steps only. They
    are differentiated by nobody and get no noise of their own. Running statistics are
    what torch calls buffers.

    Args:
        path: Module path; empty for the model itself.
        group: What the variable is, e.g. ``batch_stats``.
        name: Of the variable in its module.
        value: Its new value, of any type.

    Returns:
        The value to leave there instead.
    """
    if not is_tappable(value):
        return value
    site = value_site(path, Kind.OUTPUT, f"{group}.{name}", noise=False)
    site = dataclasses.replace(site, grad=None, is_kept=group in _STATISTICS)
    return tap_in_program(site, value)


def tap_in_program(site: TapSite, value: Any) -> Any:
    """Names a value, and leaves a constant what it is.

    A module may look at the numbers of an array that is no part of the program that is
    being traced; the tap makes no tracer of it.
    """
    tapped = tap_value(site, value)
    becomes_tracer = isinstance(tapped, Tracer) and not isinstance(value, Tracer)
    return value if becomes_tracer else tapped
