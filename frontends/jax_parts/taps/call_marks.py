"""Marks in a program: which equations belong to which call of a module.

A mark is a named scope, which JAX carries along into derivatives, transpositions and
batching, and which changes nothing that a program computes.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import jax

from ttrace.frontends.jax_parts.taps.operation_sites import CallMark
from ttrace.ir.tensor_id import ROOT_MODULE

_PREFIX = "ttrace|"

_serials = itertools.count()

_marking: list[None] = []
"""Not empty while calls are marked."""


@contextlib.contextmanager
def marking_calls(is_on: bool = True) -> Iterator[None]:
    """Marks what is traced inside.

    Args:
        is_on: Where not, nothing is marked.
    """
    if is_on:
        _marking.append(None)
    try:
        yield
    finally:
        if is_on:
            _marking.pop()


def marked(path: str, method: str = "") -> contextlib.AbstractContextManager[object]:
    """Marks what runs inside as a call of a module, if calls are marked.

    Args:
        path: Module path; empty for the model itself.
        method: As in ``CallMark``.
    """
    if not _marking:
        return contextlib.nullcontext()
    return jax.named_scope(new_mark(path, method))


def new_mark(path: str, method: str = "") -> str:
    """The name of the scope of another call."""
    return f"{_PREFIX}{next(_serials)}|{method}|{path or ROOT_MODULE}"


def mark_in(scopes: Iterable[str]) -> CallMark | None:
    """The innermost mark among the names of scopes, outermost first."""
    found = None
    for name in scopes:
        if name.startswith(_PREFIX):
            found = name
    if found is None:
        return None
    serial, method, module = found.removeprefix(_PREFIX).split("|", 2)
    return CallMark(serial=int(serial), module=module, method=method)


def without_marks(scopes: Iterable[str]) -> tuple[str, ...]:
    """The names of scopes that are none of ours."""
    return tuple(name for name in scopes if not name.startswith(_PREFIX))
