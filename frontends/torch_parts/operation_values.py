"""Which value a tensor has, among those that the operations of one call make.

A tensor is known by where in which memory it lies. What writes into memory makes a new
value of it, and views of it that were seen before no longer have theirs.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from ttrace.frontends.torch_parts.arrays import is_storable, unobserved
from ttrace.frontends.torch_parts.tensors import local_values


class Place(NamedTuple):
    """Where a tensor lies, and how it reads what lies there."""

    memory: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class CallValues:
    """The values that tensors have while a call runs.

    The memory that it has seen is kept until the call ends, so that no other tensor
    comes to lie there.
    """

    def __init__(self):
        self._kept: dict[int, Any] = {}
        self._keys: dict[Place, str] = {}
        self._places: dict[int, set[Place]] = {}
        self._writers: dict[int, tuple[str, ...]] = {}
        self._origins: dict[Place, str] = {}
        self._blank: set[int] = set()

    def place(self, tensor: torch.Tensor) -> Place | None:
        """Where a plain tensor lies; None where it has no memory of its own."""
        if not is_storable(tensor):
            return None
        with unobserved():
            storage = tensor.untyped_storage()
            memory = storage._cdata
            self._kept.setdefault(memory, storage)
            return Place(
                memory=memory,
                offset=int(tensor.storage_offset()),
                shape=tuple(tensor.shape),
                stride=tensor.stride(),
                dtype=tensor.dtype,
            )

    def key(self, place: Place) -> str | None:
        """The key of the value that is there; None where none is known."""
        return self._keys.get(place)

    def writers(self, place: Place) -> tuple[str, ...]:
        """The keys of what wrote into that memory since all of it was written."""
        return self._writers.get(place.memory, ())

    def origin(self, place: Place) -> str:
        """What a tensor is to the module; empty where that is not known."""
        return self._origins.get(place, "")

    def know(self, place: Place, key: str) -> None:
        """A value lies there."""
        self._keys[place] = key
        self._places.setdefault(place.memory, set()).add(place)

    def is_blank(self, place: Place) -> bool:
        """Whether nothing was written yet into that memory."""
        return place.memory in self._blank

    def leave_blank(self, place: Place) -> None:
        """Memory was handed out that holds what lay there before."""
        self.write(place, None)
        self._blank.add(place.memory)

    def write(self, place: Place, key: str | None) -> None:
        """An operation made what lies there: other values of this memory are gone.

        Args:
            place: What it made.
            key: Of the value; None where it is not known yet.
        """
        for other in self._places.pop(place.memory, ()):
            self._keys.pop(other, None)
            self._origins.pop(other, None)
        self._blank.discard(place.memory)
        before = () if self._is_all(place) else self.writers(place)
        self._writers.pop(place.memory, None)
        if key is not None:
            self._writers[place.memory] = (*before, key)
            self.know(place, key)

    def _is_all(self, place: Place) -> bool:
        """Whether a tensor is all that lies in its memory."""
        with unobserved():
            num_bytes = self._kept[place.memory].nbytes()
        return math.prod(place.shape) * place.dtype.itemsize >= num_bytes

    def name(self, tensors: Iterable[tuple[str, torch.Tensor]], prefix: str) -> None:
        """Tensors that come from outside: what they are to the module.

        Args:
            tensors: With their names; any type.
            prefix: Stands before these, such as ``input/``.
        """
        for name, tensor in tensors:
            place = self.place(local_values(tensor))
            if place is not None:
                self._origins.setdefault(place, f"{prefix}{name}")

    def rename(self, tensors: Iterable[tuple[str, torch.Tensor]], prefix: str) -> None:
        """The same of tensors that have just been made, in what memory ever."""
        named = list(tensors)
        for _, tensor in named:
            place = self.place(local_values(tensor))
            if place is not None and self.key(place) is None:
                self._origins.pop(place, None)
        self.name(named, prefix)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of an argument or a result of an operation."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)


@functools.lru_cache(1 << 10)
def written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that an operation writes into."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


_UNTOLD = frozenset({"device", "layout", "pin_memory", "memory_format", "generator"})
"""Arguments that say nothing of the values."""


def constants_of(func: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[str, ...]:
    """The arguments of an operation besides tensors, without those that are defaults.

    Args:
        func: The operation, which has a schema.
        args: What it is given by position.
        kwargs: Likewise, by name.
    """
    found = []
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            value = args[position]
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        else:
            continue
        if argument.name in _UNTOLD or next(tensors_in(value), None) is not None:
            continue
        if value is None or isinstance(value, torch.ScriptObject):
            continue
        is_default = argument.has_default_value() and value == argument.default_value
        if not is_default:
            found.append(f"{argument.name}={_text(value)}")
    return tuple(found)


def _text(value: Any) -> str:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)
