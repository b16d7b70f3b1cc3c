"""Finds the parameters of one trace in another, by what they hold.

Values that a random initialization, a generator or training made are unlike each other:
equal elements then mean the same parameter, whatever its name and the order of its
elements. A sum of digests finds parameters that are split, joined or stacked.
"""

import difflib
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ttrace.ir.side import Side
from ttrace.ir.transform import AxisPattern, Transform
from ttrace.map_proposal.arrangement import JOINED, Arrangement
from ttrace.map_proposal.contents import Content
from ttrace.map_proposal.derivation import derive_arrangement
from ttrace.map_proposal.hypotheses import guess_arrangement
from ttrace.map_proposal.underived import Underived
from ttrace.map_proposal.units import (
    STACK,
    Pairing,
    Unit,
    families,
    family_sizes,
    unit_of,
)
from ttrace.mapping.rules import other_side

MAX_PARTS = 4
"""Tensors that are joined at most."""

_MAX_NEIGHBOURS = 24
"""Tensors of one neighbourhood among which parts are searched."""

BY_CONTENT = "by content: all elements are equal"


class ParameterMatcher:
    """Pairs parameters by content, and keeps those that are left.

    Attributes:
        pairings: What was found.
        all: All parameters by side, in order of capture.
        left: What no pairing has, by side, in order of capture.
        family_sizes: How many parameters the patterns of families match, by side.
        underived: Takes note of what could not be derived.
    """

    def __init__(
        self,
        reference: Sequence[Content],
        candidate: Sequence[Content],
        underived: Underived | None = None,
    ):
        self.underived = underived or Underived()
        self.pairings: list[Pairing] = []
        self.all = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
        self.left: dict[Side, list[Content]] = {
            side: list(contents) for side, contents in self.all.items()
        }
        self.family_sizes = {
            side: family_sizes(contents) for side, contents in self.all.items()
        }

    def match(self) -> None:
        """Finds all that content tells: one to one, joined, stacked."""
        self._match_alike()
        for side in Side:  # first, as two layers of a stack are also neighbours
            self._match_joined(self._units(side), side, of_families=True, max_parts=1)
        for side in Side:
            self._match_joined(self._units(side), side)
        for side in Side:
            self._match_joined(self._families(side), side)
            self._match_joined(self._units(side), side, of_families=True)

    def take(self, units: Iterable[Unit]) -> None:
        """Marks tensors as matched."""
        taken = {id(content) for unit in units for content in unit.contents}
        for side in Side:
            self.left[side] = [c for c in self.left[side] if id(c) not in taken]

    def _units(self, side: Side) -> list[Unit]:
        return [unit_of(content) for content in self.left[side] if content.is_distinct]

    def _families(self, side: Side) -> list[Unit]:
        distinct = (content for content in self.left[side] if content.is_distinct)
        return families(distinct, self.family_sizes[side])

    def _match_alike(self) -> None:
        """Tensors of the same elements, one to one."""
        by_digest: dict[tuple[int, int], list[Unit]] = {}
        for unit in self._units(Side.CANDIDATE):
            by_digest.setdefault((unit.digest, unit.size), []).append(unit)
        own = self._units(Side.REFERENCE)
        num_alike = Counter((unit.digest, unit.size) for unit in own)
        is_ambiguous = {
            key: len(units) > 1 or num_alike[key] > 1
            for key, units in by_digest.items()
        }
        for unit in own:
            key = (unit.digest, unit.size)
            alike = by_digest.get(key, [])
            if not alike:
                continue
            best = max(alike, key=lambda other: likeness(unit.pattern, other.pattern))
            verified = not is_ambiguous[key]
            with self.underived.guarded(unit.contents[0].id):
                if self._pair([best], unit, Side.REFERENCE, verified=verified):
                    alike.remove(best)

    def _match_joined(
        self,
        wholes: Sequence[Unit],
        side: Side,
        *,
        of_families: bool = False,
        max_parts: int = MAX_PARTS,
    ) -> None:
        """Tensors of a side that consist of several of the other, or of a family."""
        for whole in wholes:
            if any(content not in self.left[side] for content in whole.contents):
                continue
            other = other_side(side)
            pool = self._families(other) if of_families else self._units(other)
            with self.underived.guarded(whole.contents[0].id):
                for parts in _parts_of(whole, pool, max_parts):
                    if self._pair(parts, whole, side, verified=True):
                        break

    def _pair(
        self, parts: Sequence[Unit], whole: Unit, whole_side: Side, *, verified: bool
    ) -> bool:
        """Adds a pairing, if the elements lie in a way that a map can say."""
        found = _arrange(parts, whole)
        if found is None:
            return False
        arrangement, parts = found
        pairing = _pairing(arrangement, parts, whole, whole_side)
        if pairing is None or pairing.to_rule() is None:
            return False
        self.pairings.append(
            replace(
                pairing,
                verified=verified,
                is_by_content=True,
                comment=BY_CONTENT
                if verified
                else f"{BY_CONTENT}, but several tensors hold the same",
            )
        )
        self.take([*parts, whole])
        return True


def _arrange(
    parts: Sequence[Unit], whole: Unit
) -> tuple[Arrangement, Sequence[Unit]] | None:
    """How parts lie in a whole, and the order in which they do."""
    arrays = {id(part): part.array() for part in parts}
    of_whole = whole.array()
    found = derive_arrangement([arrays[id(part)] for part in parts], of_whole)
    if found is not None:
        return found, parts
    for order in itertools.permutations(parts):
        found = guess_arrangement([arrays[id(part)] for part in order], of_whole)
        if found is not None:
            return found, order
    return None


@functools.lru_cache(maxsize=1 << 16)
def likeness(left: str, right: str) -> float:
    """How much two names have in common, from 0 to 1."""
    return difflib.SequenceMatcher(None, left.lower(), right.lower()).ratio()


def _parts_of(
    whole: Unit, pool: Sequence[Unit], max_parts: int
) -> Iterable[tuple[Unit, ...]]:
    """Sets of neighbouring units that have the elements of a tensor together."""
    for unit in pool:
        if (unit.size, unit.digest) == (whole.size, whole.digest):
            yield (unit,)
    tried = set()
    for neighbours in _neighbourhoods(pool):
        smaller = [unit for unit in neighbours if unit.size < whole.size]
        for num_parts in range(2, max_parts + 1):
            for parts in itertools.combinations(smaller, num_parts):
                key = tuple(map(id, parts))
                if key in tried or sum(part.size for part in parts) != whole.size:
                    continue
                tried.add(key)
                digest = sum(part.digest for part in parts) % (1 << 64)
                if digest == whole.digest:
                    yield _in_order(parts, whole)


def _neighbourhoods(pool: Sequence[Unit]) -> Iterable[list[Unit]]:
    """Units of one module, of one parent, of one grandparent; the nearest first."""
    for levels in range(3):
        groups: dict[str, list[Unit]] = {}
        for unit in pool:
            path = unit.module.split(".")
            parent = ".".join(path[: max(0, len(path) - levels)])
            groups.setdefault(parent, []).append(unit)
        for group in groups.values():
            if 2 <= len(group) <= _MAX_NEIGHBOURS:
                yield group
            elif len(group) > _MAX_NEIGHBOURS:
                # A list of all parameters: what belongs together stands together.
                for start in range(0, len(group) - MAX_PARTS, MAX_PARTS):
                    yield group[start : start + 2 * MAX_PARTS]


def _in_order(parts: Sequence[Unit], whole: Unit) -> tuple[Unit, ...]:
    """The parts in the order in which they begin in the whole tensor."""
    values = whole.array().reshape(-1)

    def begin(part: Unit) -> int:
        return int(np.argmax(values == part.array().reshape(-1)[0]))

    return tuple(sorted(parts, key=begin))


def _pairing(
    arrangement: Arrangement,
    parts: Sequence[Unit],
    whole: Unit,
    whole_side: Side,
) -> Pairing | None:
    part, of_whole = arrangement.part, arrangement.whole
    sizes = dict(arrangement.sizes)
    for pattern, unit in ((part, parts[0]), (of_whole, whole)):
        if unit.is_family:
            if len(pattern.dims[0]) != 1:
                return None
            (axis,) = pattern.dims[0]
            if axis in arrangement.flipped:
                return None
            part, of_whole = (_renamed(p, axis, STACK) for p in (part, of_whole))
            sizes[STACK] = sizes.pop(axis)
    if parts[0].is_family:
        part = AxisPattern(dims=part.dims[1:])
    if whole.is_family:
        of_whole = AxisPattern(dims=of_whole.dims[1:])
    names = {
        whole_side: (whole.pattern,),
        other_side(whole_side): tuple(unit.pattern for unit in parts),
    }
    is_reference = whole_side is Side.REFERENCE
    transform = Transform(
        candidate=part if is_reference else of_whole,
        reference=of_whole if is_reference else part,
        flipped=arrangement.flipped,
    )
    return Pairing(
        reference=names[Side.REFERENCE],
        candidate=names[Side.CANDIDATE],
        transform=transform,
        join=JOINED if arrangement.joins else None,
        sizes=sizes,
        part_sizes=arrangement.part_sizes,
    )


def _renamed(pattern: AxisPattern, old: str, new: str) -> AxisPattern:
    return AxisPattern(
        dims=tuple(
            tuple(new if axis == old else axis for axis in dim) for dim in pattern.dims
        )
    )
