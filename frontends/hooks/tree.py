"""Arguments and outputs of modules as (slot, tensor) pairs, and rebuilt from them.

Looks into tuples (named ones too), lists, mappings and dataclasses, at most
``MAX_DEPTH`` deep. Whatever else holds tensors, such as a cache object, is opaque.
"""

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch

MAX_DEPTH = 8
"""Structures nested deeper are not looked into: they are most likely cyclic."""

_UNSPEAKABLE = re.compile(r"[/\s]+")
_RESERVED = re.compile(r"call\d+|recompute")


def clean_name(text: str) -> str:
    """Makes a name fit for a tensor id: ``'a b'`` becomes ``'a_b'``."""
    name = _UNSPEAKABLE.sub("_", text) or "_"
    return f"{name}_" if _RESERVED.fullmatch(name) else name


def named_tensors(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a module's output with their slots, in order.

    A tensor alone has slot ``0``, like the first of a tuple: whether a module wraps its
    only output makes no difference. A tensor object that occurs twice is yielded twice.
    """
    if isinstance(value, torch.Tensor):
        yield "0", value
    else:
        yield from _leaves(value, "", MAX_DEPTH)


def named_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a call: ``0``, ``1.mask``, and keywords by name."""
    yield from _leaves(args, "", MAX_DEPTH)
    if kwargs:
        yield from _leaves(kwargs, "", MAX_DEPTH)


def map_tensors(value: Any, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    """Replaces the tensors of a structure.

    Args:
        value: Anything that ``named_tensors`` walks.
        change: Given slot and tensor, returns the new tensor, or the same one.

    Returns:
        A structure of the same types; the very same object where nothing changed. The
        original is left as it was.
    """
    if isinstance(value, torch.Tensor):
        return change("0", value)
    return _mapped(value, "", MAX_DEPTH, change)


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    """The parts of a container with their keys; None for anything else."""
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if isinstance(value, Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [
            (field.name, getattr(value, field.name, None))
            for field in dataclasses.fields(value)
        ]
    return None


def _slot(prefix: str, value: Any, key: Any) -> str:
    names = getattr(value, "_fields", None) if isinstance(value, tuple) else None
    if names is not None:
        key = names[key]
    return clean_name(f"{prefix}{key}")


def _leaves(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    for key, part in _items(value) or ():
        if isinstance(part, torch.Tensor):
            yield _slot(prefix, value, key), part
        elif depth > 1 and part is not None:
            yield from _leaves(part, f"{_slot(prefix, value, key)}.", depth - 1)


def _mapped(
    value: Any,
    prefix: str,
    depth: int,
    change: Callable[[str, torch.Tensor], torch.Tensor],
) -> Any:
    changes = {}
    for key, part in _items(value) or ():
        if isinstance(part, torch.Tensor):
            new = change(_slot(prefix, value, key), part)
        elif depth > 1 and part is not None:
            new = _mapped(part, f"{_slot(prefix, value, key)}.", depth - 1, change)
        else:
            new = part
        if new is not part:
            changes[key] = new
    return _with_changes(value, changes) if changes else value


def _with_changes(value: Any, changes: Mapping[Any, Any]) -> Any:
    if isinstance(value, tuple):
        parts = [changes.get(index, part) for index, part in enumerate(value)]
        make = getattr(type(value), "_make", type(value))
        return make(parts)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(value):
        # Model outputs of Hugging Face are both; their copies need the fields at once.
        return dataclasses.replace(value, **changes)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        make_mapping: Any = type(value)
        return make_mapping({**value, **changes})
    new = copy.copy(value)
    if isinstance(value, (list, MutableMapping)):
        for key, part in changes.items():
            new[key] = part
    else:
        for name, part in changes.items():
            object.__setattr__(new, name, part)  # frozen ones too
    return new
