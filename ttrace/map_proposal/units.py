"""What a proposal lines up: tensors, and families of them that differ in a number."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ttrace.errors import MapError
from ttrace.ir.kinds import Kind
from ttrace.ir.transform import Transform
from ttrace.map_proposal.contents import Content, sum_digests
from ttrace.map_proposal.layer_numbers import Layers
from ttrace.mapping.names import parse_pattern
from ttrace.mapping.rules import TensorRule

STACK = "i"
"""Placeholder of what differs in a family, and name of its axis in a stack."""

_SEGMENT = re.compile(r"(?:(?<![^./])|(?<=_))\d+(?![^./])")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """A parameter, or the same parameter of all layers.

    Attributes:
        module: Path of the module, with ``{i}`` for the layer of a family.
        slot: Name of the parameter.
        contents: The tensor, or those of a family in the order of layers.
    """

    module: str
    slot: str
    contents: tuple[Content, ...]

    @property
    def pattern(self) -> str:
        """Text of the pattern that names it on its side."""
        return f"{self.module}/{{kind}}/{self.slot}"

    @property
    def is_family(self) -> bool:
        return f"{{{STACK}}}" in self.module

    @property
    def size(self) -> int:
        """Number of elements of all its tensors."""
        return sum(content.size for content in self.contents)

    @property
    def digest(self) -> int:
        """Digest of all its tensors."""
        return sum_digests(list(self.contents))

    @property
    def is_distinct(self) -> bool:
        return all(content.is_distinct for content in self.contents)

    def array(self) -> np.ndarray:
        """Its values; of a family with the layers in front."""
        if not self.is_family:
            return self.contents[0].array()
        return np.stack([content.array() for content in self.contents])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``array()``."""
        shape = self.contents[0].shape
        return (len(self.contents), *shape) if self.is_family else shape


def unit_of(content: Content) -> Unit:
    """A single tensor."""
    assert content.id.slot is not None, "parameters have names"
    return Unit(module=content.id.module, slot=content.id.slot, contents=(content,))


FamilySizes = Mapping[tuple[str, str | None], int]
"""By module, with the placeholder, and slot: how many tensors the pattern matches."""


def family_sizes(contents: Iterable[Content]) -> FamilySizes:
    """How many of a run's tensors the pattern of each possible family matches."""
    return Counter(
        (module, content.id.slot)
        for content in contents
        for module, _ in _numbered(content.id.module)
    )


def families(
    contents: Iterable[Content], sizes: FamilySizes | None = None
) -> list[Unit]:
    """All families: tensors whose modules differ in one number, which counts from 0.

    Args:
        contents: The tensors.
        sizes: Those of all tensors of the run, by default of these. A family's pattern
            must match no other tensor: numbers may be positions in a list of all
            parameters.
    """
    contents = list(contents)
    sizes = family_sizes(contents) if sizes is None else sizes
    found: dict[tuple[str, str | None, tuple[int, ...]], dict[int, Content]] = {}
    for content in contents:
        for module, number in _numbered(content.id.module):
            key = (module, content.id.slot, content.shape)
            found.setdefault(key, {})[number] = content
    return [
        Unit(
            module=module,
            slot=slot or "",
            contents=tuple(members[index] for index in range(len(members))),
        )
        for (module, slot, _), members in found.items()
        if len(members) > 1
        and set(members) == set(range(len(members)))
        and sizes[module, slot] == len(members)
    ]


@functools.lru_cache(maxsize=1 << 16)
def _numbered(module: str) -> tuple[tuple[str, int], ...]:
    """The patterns of families that a module may belong to, and its number in each."""
    return tuple(
        (f"{module[: match.start()]}{{{STACK}}}{module[match.end() :]}", int(match[0]))
        for match in _SEGMENT.finditer(module)
    )


BY_VALUES = "by what it holds"
SEVERAL_ALIKE = f"{BY_VALUES}, but several hold the same"
"""``Pairing.comment`` of values that are found in several places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Tensors found to belong together: a rule before layers are generalised.

    Attributes:
        reference: Texts of the patterns of the reference's side.
        candidate: The same of the candidate's side.
        kinds: What ``{kind}`` stands for in them; all kinds if empty.
        transform: From the candidate to the reference; None if they are the same.
        join: The axis that joins a list.
        sizes: Length of every axis of the transform; of the joined one, of the whole.
        part_sizes: See ``TensorRule``.
        verified: False if somebody should read it.
        comment: How it was found.
        is_by_content: As all elements are equal, in some order.
    """

    reference: tuple[str, ...]
    candidate: tuple[str, ...]
    kinds: tuple[Kind, ...] = ()
    transform: Transform | None = None
    join: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    part_sizes: tuple[int, ...] | None = None
    verified: bool = True
    comment: str = ""
    is_by_content: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the values of both sides agree, whichever places they are of."""
        return self.verified or self.comment == SEVERAL_ALIKE

    def to_rule(self) -> TensorRule | None:
        """The rule; None if no map can say it."""
        transform = self.transform
        if transform is not None and transform.is_identity and self.join is None:
            transform = None
        sizes = {}
        if transform is not None:
            for dim in transform.candidate.dims:  # the first one follows from the shape
                sizes |= {axis: self.sizes[axis] for axis in dim[1:]}
        sizes.pop(self.join or "", None)
        try:
            return TensorRule(
                reference=tuple(map(parse_pattern, self.reference)),
                candidate=tuple(map(parse_pattern, self.candidate)),
                kinds=frozenset(self.kinds) or None,
                transform=transform,
                join=self.join,
                sizes=sizes,
                part_sizes=self.part_sizes,
                verified=self.verified,
                comment=self.comment,
                is_by_content=self.is_by_content,
            )
        except MapError:
            return None


def modules_of(patterns: Sequence[str]) -> tuple[str, ...]:
    """The module paths of patterns."""
    return tuple(pattern.split("/")[0] for pattern in patterns)


def layers_of(pairings: Iterable[Pairing]) -> Layers:
    """The layers in which the modules of pairings lie."""
    return Layers(
        (own, other)
        for pairing in pairings
        for own in modules_of(pairing.reference)
        for other in modules_of(pairing.candidate)
    )
