"""Which regions of a tensor overlap; by number, and found without trying all pairs.

What is found depends on the regions alone, and many tensors of a model lie alike: it is
kept, so that each arrangement is looked at once.
"""

import bisect
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttrace.ir.layout import Region

Regions = tuple[Region, ...]

_KEPT_ARRANGEMENTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What two regions have in common.

    Attributes:
        first: Number of the one region.
        second: Number of the other.
        region: The common part.
    """

    first: int
    second: int
    region: Region


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """Regions of one tensor, split into what the first of them holds and the rest.

    Attributes:
        pieces: Disjoint; together all that any of the regions covers. Each with the
            number of the first region that covers it.
        repeated: What later regions cover once more: the second is the later one.
    """

    pieces: tuple[tuple[Region, int], ...]
    repeated: tuple[Overlap, ...]


@functools.lru_cache(_KEPT_ARRANGEMENTS)
def find_overlaps(first: Regions, second: Regions) -> tuple[Overlap, ...]:
    """The overlaps of two lists of regions, by number in ``second``, then ``first``.

    Costs n log n where the regions are of about one extent along some dim.
    """
    if len(first) == len(second) == 1:  # as of nearly all tensors of one rank
        equal = first[0] == second[0] and first[0].size
        common = first[0] if equal else first[0].intersect(second[0])
        return () if common is None else (Overlap(first=0, second=0, region=common),)
    near = _Neighbours(first)
    return tuple(
        Overlap(first=i, second=j, region=common)
        for j, region in enumerate(second)
        for i in near.of(region)
        if (common := first[i].intersect(region)) is not None
    )


@functools.lru_cache(_KEPT_ARRANGEMENTS)
def arrange(regions: Regions) -> Arrangement:
    """Splits regions into disjoint pieces and what is there more than once."""
    if len(regions) == 1:
        return Arrangement(pieces=((regions[0], 0),), repeated=())
    near = _Neighbours(regions)
    owned: list[list[Region]] = []
    repeated: list[Overlap] = []
    for number, region in enumerate(regions):
        remaining = [region]
        for owner in near.of(region):
            if owner >= number or not remaining:
                break
            for piece in owned[owner]:
                remaining = _without(remaining, piece, owner, number, repeated)
        owned.append(remaining)
    return Arrangement(
        pieces=tuple(
            (piece, owner) for owner, pieces in enumerate(owned) for piece in pieces
        ),
        repeated=tuple(repeated),
    )


def _without(
    parts: Iterable[Region],
    piece: Region,
    owner: int,
    number: int,
    repeated: list[Overlap],
) -> list[Region]:
    """What a piece leaves of some regions; what it covers is added to ``repeated``."""
    rest: list[Region] = []
    for part in parts:
        common = part.intersect(piece)
        if common is None:
            rest.append(part)
            continue
        repeated.append(Overlap(first=owner, second=number, region=common))
        rest += part.subtract(common)
    return rest


class _Neighbours:
    """Regions, sorted along the dim that tells most of them apart."""

    def __init__(self, regions: Sequence[Region]):
        num_dims = len(regions[0].start) if regions else 0
        self._dim = max(
            range(num_dims),
            key=lambda dim: len({region.start[dim] for region in regions}),
            default=None,
        )
        self._order = list(range(len(regions)))
        if self._dim is not None:
            dim = self._dim
            self._order.sort(key=lambda i: regions[i].start[dim])
            self._starts = [regions[i].start[dim] for i in self._order]
            self._longest = max(region.extent[dim] for region in regions)

    def of(self, region: Region) -> list[int]:
        """Numbers, ascending, of all regions that may overlap with one."""
        if self._dim is None:
            return self._order
        start, stop = region.start[self._dim], region.stop[self._dim]
        low = bisect.bisect_right(self._starts, start - self._longest)
        return sorted(self._order[low : bisect.bisect_left(self._starts, stop)])
