"""What a map says, as values: rules for families of tensors, and what is left out.

How it is written in a file: ``ttrace.mapping.map_file``.
"""

import fnmatch
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.errors import MapError
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.transform import Transform
from ttrace.mapping.names import NamePattern


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRule:
    """A family of tensors, and how they lie on the two sides.

    Attributes:
        reference: Patterns of the reference's side; several only if they are joined.
        candidate: Patterns of the candidate's side; several only if they are joined.
        kinds: What ``{kind}`` may stand for; None for all.
        transform: From the candidate to the reference; None if they are the same.
        join: The axis along which the tensors of a list lie.
        sizes: Sizes of axes that do not follow from shapes.
        part_sizes: Sizes along the joined axis, one per tensor of the list.
        unpadded: Lengths of axes without padding.
        verified: False for what somebody should read before it is relied on.
        place: File and line, for errors.
        comment: For the reader of a written file; not read back.
        is_by_content: It was found as all elements are equal; not read back.
    """

    reference: tuple[NamePattern, ...]
    candidate: tuple[NamePattern, ...]
    kinds: frozenset[Kind] | None = None
    transform: Transform | None = None
    join: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    part_sizes: tuple[int, ...] | None = None
    unpadded: Mapping[str, int] = field(default_factory=dict)
    verified: bool = True
    place: str = ""
    comment: str = ""
    is_by_content: bool = False

    def __post_init__(self):
        self._check_kinds()
        self._check_placeholders()
        self._check_axes()

    def patterns(self, side: Side) -> tuple[NamePattern, ...]:
        """The patterns of a side."""
        return self.reference if side is Side.REFERENCE else self.candidate

    def stacked(self, side: Side) -> tuple[str, ...]:
        """Placeholders of a side that are axes of the other side, sorted."""
        own, other = self.patterns(side)[0], self.patterns(other_side(side))[0]
        return tuple(sorted(own.placeholders - other.placeholders))

    @property
    def only_renames(self) -> bool:
        """Whether nothing is to be rearranged: at most shapes are to be checked."""
        return (self.transform is None or self.transform.is_identity) and not (
            self.join or self.unpadded
        )

    def _check_kinds(self) -> None:
        patterns = (*self.reference, *self.candidate)
        if len({pattern.kind is None for pattern in patterns}) > 1:
            raise self._error(
                "a rule has {kind} in some of its patterns only",
                got=", ".join(map(str, patterns)),
                remedy="write {kind} in all of them, or the kind",
            )
        if self.kinds is not None and patterns[0].kind is not None:
            raise self._error(
                "a rule limits the kinds of patterns that name their kind",
                got=f"kinds = {sorted(self.kinds)} of {patterns[0]}",
                remedy="write {kind} in the patterns, or leave kinds out",
            )

    def _check_placeholders(self) -> None:
        for patterns in (self.reference, self.candidate):
            first = patterns[0].placeholders
            for pattern in patterns[1:]:
                if pattern.placeholders != first:
                    raise self._error(
                        "the patterns of a list have different placeholders",
                        expected=listed(first),
                        got=f"{listed(pattern.placeholders)} in {pattern}",
                        remedy="give all patterns of the list the same ones",
                    )
        for side in Side:
            for name in self.stacked(side):
                if name in self._axes(other_side(side)) and name not in self._axes(
                    side
                ):
                    continue
                raise self._error(
                    "a placeholder stands on one side only, and is no axis of the "
                    "other side",
                    expected=f"{{{name}}} on both sides, or an axis {name} of the "
                    f"{other_side(side)} in the transform, and not of the {side}",
                    got=f"{{{name}}} in {self.patterns(side)[0]}, transform "
                    f"{str(self.transform) if self.transform else 'none'}",
                    remedy="repeat the placeholder, or name the axis that it counts",
                )

    def _check_axes(self) -> None:
        lists = [side for side in Side if len(self.patterns(side)) > 1]
        if len(lists) > 1:
            raise self._error(
                "both sides of a rule are lists",
                expected="a list on one side at most",
                got=f"{len(self.reference)} and {len(self.candidate)} patterns",
                remedy="write a rule for each tensor of one side",
            )
        if bool(lists) != (self.join is not None):
            raise self._error(
                "a list of tensors and the axis that joins them come together",
                expected='join = "axis" and a list of patterns, or neither',
                got=f"join = {self.join!r}, {len(lists)} lists",
                remedy="name the axis along which the tensors lie one after another",
            )
        candidate, reference = self._axes(Side.CANDIDATE), self._axes(Side.REFERENCE)
        named = {*candidate, *reference}
        one_sided = set(candidate) ^ set(reference)
        free = {*self.stacked(Side.REFERENCE), *self.stacked(Side.CANDIDATE)}
        if lists:
            assert self.join is not None
            whole = other_side(lists[0])
            if self.join not in self._axes(whole):
                raise self._error(
                    "the axis that joins a list is none of the whole tensor",
                    expected=f"one of {listed(self._axes(whole))}, the axes of the "
                    f"{whole}",
                    got=repr(self.join),
                    remedy="name the axis in the transform",
                )
            free.add(self.join)
        if one_sided - free:
            raise self._error(
                "an axis of the transform is on one side only",
                expected="every axis on both sides, but for the joined one and those "
                "that a placeholder counts",
                got=f"{listed(one_sided - free)} in {self.transform}",
                remedy="name it on the other side, or correct the name",
            )
        for key, axes in (("sizes", self.sizes), ("unpadded", self.unpadded)):
            if set(axes) - named:
                raise self._error(
                    "a rule gives the size of an axis that its transform does not have",
                    expected=f"one of {listed(named)}",
                    got=f"{key} of {listed(set(axes) - named)}",
                    remedy="correct the name, or leave it out",
                )
        if set(self.unpadded) & free:
            raise self._error(
                "an axis that lies over several tensors has no padding at its end",
                got=f"unpadded {listed(set(self.unpadded) & free)}",
                remedy="take the padding off where the tensors are recorded",
            )
        flipped = self.transform.flipped if self.transform is not None else frozenset()
        if flipped & (free | set(self.unpadded)):
            raise self._error(
                "an axis that is flipped lies over several tensors, or is padded",
                got=f"-{', -'.join(sorted(flipped & (free | set(self.unpadded))))} in "
                f"{self.transform}",
                remedy="take the minus off, or write a rule for each tensor",
            )
        num_parts = max(len(self.reference), len(self.candidate))
        if self.part_sizes is not None and len(self.part_sizes) != num_parts:
            raise self._error(
                "a joined axis has another number of sizes than the list has tensors",
                expected=f"{num_parts} sizes",
                got=list(self.part_sizes),
                remedy="give one size for each tensor of the list, in its order",
            )

    def _axes(self, side: Side) -> tuple[str, ...]:
        if self.transform is None:
            return ()
        if side is Side.REFERENCE:
            return self.transform.reference.axes
        return self.transform.candidate.axes

    def _error(self, what: str, *, remedy: str, got: object, expected: object = None):
        return MapError(
            what, where=self.place or None, expected=expected, got=got, remedy=remedy
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRule:
    """Tensors that are left out.

    Attributes:
        side: The run that has them.
        pattern: Shell pattern over the text of the id, without step and micro-batch.
        reason: One sentence for the report.
        place: File and line, for errors.
    """

    side: Side
    pattern: str
    reason: str
    place: str = ""

    def matches(self, tensor_id: TensorId) -> bool:
        """Whether a tensor is left out."""
        return fnmatch.fnmatchcase(name_of(tensor_id), self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFile:
    """A whole map.

    Attributes:
        path: Where it was read; for errors and the report.
        rules: All ``[[tensor]]``.
        ignored: All ``[[ignore]]``.
        states: Names of what optimizers keep, by those of the reference.
    """

    path: Path
    rules: tuple[TensorRule, ...] = ()
    ignored: tuple[IgnoreRule, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_unverified(self) -> int:
        """How many rules somebody should read."""
        return sum(not rule.verified for rule in self.rules)


def name_of(tensor_id: TensorId) -> str:
    """The text of an id without step and micro-batch."""
    parts = str(tensor_id).split("/")[1:]
    return "/".join(parts[1:] if tensor_id.microbatch is not None else parts)


def other_side(side: Side) -> Side:
    """The other one of the two runs."""
    return Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE


def listed(names: Collection[str]) -> str:
    """Names for an error, in a fixed order."""
    return ", ".join(sorted(names)) or "none"
