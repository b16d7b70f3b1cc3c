"""Overlaps found by neighbours are those that trying all pairs finds, in its order."""

import random

import pytest

from ttrace.compare.overlaps import arrange, find_overlaps
from ttrace.ir.layout import Region


def regions(draw: random.Random, num_dims: int, number: int) -> tuple[Region, ...]:
    """Some that repeat, some that overlap in part, some apart."""
    made = [
        Region(
            start=tuple(draw.randrange(9) for _ in range(num_dims)),
            extent=tuple(draw.randrange(1, 6) for _ in range(num_dims)),
        )
        for _ in range(number)
    ]
    return tuple(draw.choice(made) if i % 3 == 2 else r for i, r in enumerate(made))


@pytest.mark.parametrize("seed", range(60))
def test_overlaps_are_those_of_all_pairs(seed):
    draw = random.Random(seed)
    first, second = (regions(draw, seed % 4, draw.randrange(12)) for _ in range(2))
    expected = [
        (i, j, common)
        for j, b in enumerate(second)
        for i, a in enumerate(first)
        if (common := a.intersect(b)) is not None
    ]
    found = find_overlaps(first, second)
    assert [(o.first, o.second, o.region) for o in found] == expected


@pytest.mark.parametrize("seed", range(60))
def test_an_arrangement_is_what_splitting_one_by_one_gives(seed):
    draw = random.Random(seed)
    given = regions(draw, seed % 4, draw.randrange(12))
    pieces, repeated = [], []
    for number, region in enumerate(given):
        remaining = [region]
        for piece, owner in pieces:
            rest = []
            for part in remaining:
                common = part.intersect(piece)
                if common is None:
                    rest.append(part)
                else:
                    repeated.append((owner, number, common))
                    rest += part.subtract(common)
            remaining = rest
        pieces += [(part, number) for part in remaining]
    arrangement = arrange(given)
    assert list(arrangement.pieces) == pieces
    found = [(o.first, o.second, o.region) for o in arrangement.repeated]
    assert found == repeated


def test_disjoint_neighbours_are_not_tried_against_all(monkeypatch):
    """Costs of 400 shards: a few looks each, not 400."""
    looks = 0
    original = Region.intersect

    def intersect(self, other):
        nonlocal looks
        looks += 1
        return original(self, other)

    rows = tuple(Region(start=(8 * i, 0), extent=(8, 4)) for i in range(400))
    halves = tuple(Region(start=(16 * i, 0), extent=(16, 4)) for i in range(200))
    monkeypatch.setattr(Region, "intersect", intersect)
    arrange.cache_clear()
    find_overlaps.cache_clear()
    assert len(arrange(rows).pieces) == 400
    assert len(find_overlaps(rows, halves)) == 400
    assert looks < 2000
