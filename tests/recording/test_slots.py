import collections
import dataclasses
import types
from typing import Any

import pytest

from ttrace.recording.slots import MAX_DEPTH, SlotWalk, clean_name

Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass(frozen=True)
class Box:
    """A frozen container."""

    content: Any
    label: str = "x"


class Closed(dict):
    """A container that is not to be looked into."""


WALK = SlotWalk(
    is_leaf=lambda value: isinstance(value, complex),
    is_opaque=lambda value: isinstance(value, Closed),
)

STRUCTURES: dict[str, tuple[Any, list[str]]] = {
    "leaf": (1j, ["0"]),
    "tuple": ((1j, None, 2j), ["0", "2"]),
    "nested": ([1j, [2j, (3j,)]], ["0", "1.0", "1.1.0"]),
    "dict": ({"b": 1j, "a": {"x": 2j, 3: 3j}}, ["b", "a.x", "a.3"]),
    "named tuple": (Pair(1j, (2j, "other")), ["left", "right.0"]),
    "dataclass": ((1j, Box(2j)), ["0", "1.content"]),
    "read only": (types.MappingProxyType({"x": 1j}), ["x"]),
    "unspeakable": ({"a b/c": 1j, "call3": 2j}, ["a_b_c", "call3_"]),
    "opaque": ([Closed(x=1j), {"y": 2j}], ["1.y"]),
    "nothing": (None, []),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_slots_name_every_leaf_once(name):
    value, slots = STRUCTURES[name]
    assert [slot for slot, _ in WALK.named_leaves(value)] == slots


@pytest.mark.parametrize("name", STRUCTURES)
def test_mapping_walks_the_same_leaves_and_keeps_the_types(name):
    value, slots = STRUCTURES[name]
    before = list(WALK.named_leaves(value))
    mapped = WALK.map_leaves(value, lambda slot, leaf: leaf * 2)
    assert type(mapped) is type(value)
    assert list(WALK.named_leaves(mapped)) == [
        (slot, 2 * leaf) for slot, leaf in before
    ]
    assert list(WALK.named_leaves(value)) == before
    assert WALK.map_leaves(value, lambda slot, leaf: leaf) is value


def test_arguments_are_positions_and_names():
    arguments = WALK.named_arguments((1j, [2j]), {"mask": 3j, "other": None})
    assert list(arguments) == [("0", 1j), ("1.0", 2j), ("mask", 3j)]


def test_structures_are_not_looked_into_without_end():
    cyclic: list[Any] = [1j]
    cyclic.append(cyclic)
    assert len(list(WALK.named_leaves(cyclic))) == MAX_DEPTH


def test_names_are_made_speakable():
    assert clean_name("a b/c") == "a_b_c"
    assert clean_name("") == "_"
    assert clean_name("recompute") == "recompute_"
