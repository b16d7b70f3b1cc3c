"""Tensors of a group on one grid: sizes from either side, and what they leave open."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.errors import MapError
from ttrace.mapping.grids import place_on_grid
from ttrace.mapping.groups import Group, Position, find_groups
from ttrace.mapping.map_file import parse_map

ONE = np.ones(1, np.float32)
WHOLE = Position(member=0, indices=())


def group_of(text: str, reference: list[str], candidate: list[str]) -> Group:
    infos = [
        memory_trace({f"step0/{name}/param/w": ONE for name in names}).info
        for names in (reference, candidate)
    ]
    (group,) = find_groups(parse_map(text, Path("m.toml")), *infos)
    return group


def rule(reference: str, candidate: str, **keys: str) -> str:
    lines = [f"{key} = {value}" for key, value in keys.items()]
    return "\n".join(
        ("[[tensor]]", f"reference = {reference}", f"candidate = {candidate}", *lines)
    )


def test_the_reference_gives_what_the_candidate_leaves_open():
    text = rule('"a/{kind}/w"', '"b/{kind}/w"', transform='"(n o) d -> n o d"')
    group = group_of(text, ["a"], ["b"])
    grid = place_on_grid(group, {WHOLE: (3, 4, 5)}, {WHOLE: (12, 5)})
    assert grid is not None
    assert grid.reference[WHOLE].shape == (3, 4, 5)
    assert grid.candidate[WHOLE].shape == (12, 5)
    with pytest.raises(MapError, match="a shape contradicts the transform"):
        place_on_grid(group, {WHOLE: (3, 4, 5)}, {WHOLE: (12, 7)})
    other = rule('"a/{kind}/w"', '"b/{kind}/w"', transform='"(n o) d -> (o n) d"')
    with pytest.raises(MapError, match="does not follow from shapes") as caught:
        place_on_grid(group_of(other, ["a"], ["b"]), {WHOLE: (12, 5)}, {WHOLE: (12, 5)})
    assert "sizes = {o = ...}" in caught.value.remedy
    # Without the reference nothing can be said, and nothing is wrong.
    assert place_on_grid(group, {}, {WHOLE: (12, 5)}) is None


def test_the_candidate_decides():
    text = rule('"a/{kind}/w"', '"b/{kind}/w"', transform='"b s -> s b"')
    group = group_of(text, ["a"], ["b"])
    grid = place_on_grid(group, {WHOLE: (4, 3)}, {WHOLE: (2, 4)})
    assert grid is not None and grid.reference[WHOLE].shape == (4, 2)


def test_parts_lie_one_after_another():
    text = rule(
        '["q/{kind}/w", "k/{kind}/w"]',
        '"qk/{kind}/w"',
        transform='"(g n) h -> (g n) h"',
        join='"n"',
        sizes="{ g = 2 }",
    )
    group = group_of(text, ["q", "k"], ["qk"])
    second = Position(member=1, indices=())
    shapes = {WHOLE: (8, 3), second: (2, 3)}
    grid = place_on_grid(group, shapes, {WHOLE: (10, 3)})
    assert grid is not None
    assert grid.reference[WHOLE].ranges["n"] == range(0, 4)
    assert grid.reference[second].ranges["n"] == range(4, 5)
    assert grid.candidate[WHOLE].ranges["n"] == range(0, 5)
    # One part is missing: the whole says what is left for it.
    grid = place_on_grid(group, {WHOLE: (8, 3)}, {WHOLE: (10, 3)})
    assert grid is not None and grid.reference[second].shape == (2, 3)


def test_layers_count_from_0():
    text = rule('"h.{i}/{kind}/w"', '"all/{kind}/w"', transform='"i d -> d"')
    group = group_of(text, ["h.0", "h.1"], ["all"])
    grid = place_on_grid(group, {}, {WHOLE: (3, 5)})
    assert grid is not None
    assert [part.indices for part in grid.reference] == [(0,), (1,), (2,)]
    assert grid.reference[Position(member=0, indices=(1,))].ranges["i"] == range(1, 2)


def test_padding_is_of_a_side():
    text = rule(
        '"a/{kind}/w"', '"b/{kind}/w"', transform='"v d -> v d"', unpadded="{ v = 10 }"
    )
    group = group_of(text, ["a"], ["b"])
    grid = place_on_grid(group, {WHOLE: (12, 5)}, {WHOLE: (16, 5)})
    assert grid is not None
    assert grid.candidate[WHOLE].padding == {"v": 6}
    assert grid.padded_reference[WHOLE].padding == {"v": 2}
    assert grid.reference[WHOLE].shape == (10, 5)
