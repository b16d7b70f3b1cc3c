"""Arguments and outputs of modules as (slot, leaf) pairs, and rebuilt from them.

The same for every framework, so that the same structure has the same slots everywhere;
what a leaf is, the framework says. Looks into tuples (named ones too), lists, mappings
and dataclasses, at most ``MAX_DEPTH`` deep. Whatever else holds leaves, such as a cache
object, is opaque.
"""

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 8
"""Structures nested deeper are not looked into: they are most likely cyclic."""

_UNSPEAKABLE = re.compile(r"[/\s]+")
_RESERVED = re.compile(r"call\d+|recompute")

Change = Callable[[str, Any], Any]
"""Takes a slot and a leaf, returns the leaf that replaces it, or the same one."""


def clean_name(text: str) -> str:
    """Makes a name fit for a tensor id: ``'a b'`` becomes ``'a_b'``."""
    name = _UNSPEAKABLE.sub("_", text) or "_"
    return f"{name}_" if _RESERVED.fullmatch(name) else name


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotWalk:
    """How to walk the structures of one framework.

    Attributes:
        is_leaf: Whether a value is a tensor.
        is_opaque: Whether a container is not to be looked into.
    """

    is_leaf: Callable[[Any], bool]
    is_opaque: Callable[[Any], bool] = lambda value: False

    def named_leaves(self, value: Any) -> Iterator[tuple[str, Any]]:
        """The leaves of a module's output with their slots, in order.

        A leaf alone has slot ``0``, like the first of a tuple: whether a module wraps
        its only output makes no difference. An object that occurs twice is yielded
        twice.
        """
        if self.is_leaf(value):
            yield "0", value
        else:
            yield from self._leaves(value, "", MAX_DEPTH)

    def named_arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[tuple[str, Any]]:
        """The leaves of a call: ``0``, ``1.mask``, and keywords by name."""
        yield from self._leaves(args, "", MAX_DEPTH)
        if kwargs:
            yield from self._leaves(kwargs, "", MAX_DEPTH)

    def map_leaves(self, value: Any, change: Change) -> Any:
        """Replaces the leaves of a structure.

        Args:
            value: Anything that ``named_leaves`` walks.
            change: Called for every leaf.

        Returns:
            A structure of the same types; the very same object where nothing changed.
            The original is left as it was.
        """
        if self.is_leaf(value):
            return change("0", value)
        return self._mapped(value, "", MAX_DEPTH, change)

    def _items(self, value: Any) -> list[tuple[Any, Any]] | None:
        """The parts of a container with their keys; None for anything else."""
        if self.is_opaque(value):
            return None
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

    def _leaves(self, value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        for key, part in self._items(value) or ():
            if self.is_leaf(part):
                yield _slot(prefix, value, key), part
            elif depth > 1 and part is not None:
                inner = f"{_slot(prefix, value, key)}."
                yield from self._leaves(part, inner, depth - 1)

    def _mapped(self, value: Any, prefix: str, depth: int, change: Change) -> Any:
        changes = {}
        for key, part in self._items(value) or ():
            if self.is_leaf(part):
                new = change(_slot(prefix, value, key), part)
            elif depth > 1 and part is not None:
                inner = f"{_slot(prefix, value, key)}."
                new = self._mapped(part, inner, depth - 1, change)
            else:
                new = part
            if new is not part:
                changes[key] = new
        return _with_changes(value, changes) if changes else value


def _slot(prefix: str, value: Any, key: Any) -> str:
    names = getattr(value, "_fields", None) if isinstance(value, tuple) else None
    if names is not None:
        key = names[key]
    return clean_name(f"{prefix}{key}")


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
