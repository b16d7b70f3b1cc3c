"""Places the tensors of a group on one grid: sizes of axes from shapes, then ranges."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ttrace.errors import MapError
from ttrace.ir.side import Side
from ttrace.ir.transform import (
    Shape,
    ShapeContradiction,
    solve_sizes,
)
from ttrace.mapping.groups import Group, Position
from ttrace.mapping.rearrange import GridTensor
from ttrace.mapping.rules import TensorRule

Shapes = Mapping[Position, tuple[int, ...]]
"""Logical shapes of the tensors of one side that were recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGrid:
    """All tensors of a group, as parts of one grid.

    Attributes:
        candidate: Those that were recorded, as they are.
        reference: Those that they make up, without padding.
        padded_reference: Those that the reference recorded, as they are.
    """

    candidate: Mapping[Position, GridTensor]
    reference: Mapping[Position, GridTensor]
    padded_reference: Mapping[Position, GridTensor]


def place_on_grid(
    group: Group, reference: Shapes, candidate: Shapes
) -> GroupGrid | None:
    """Finds the sizes of all axes, and what each tensor spans of them.

    The candidate's shapes decide; the reference's only where they leave a size open.

    Args:
        group: Its rule has a transform.
        reference: What the reference recorded of the group.
        candidate: What the candidate recorded of it; at least one.

    Returns:
        None where a tensor of the list is missing without which sizes are not known.

    Raises:
        MapError: A shape contradicts the transform, or leaves the size of an axis open.
    """
    rule = group.rule
    shapes = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    sizes = _Sizes(rule, group)
    try:
        sizes.learn(Side.CANDIDATE, candidate)
    except ShapeContradiction as contradiction:
        raise _contradiction(rule, contradiction) from contradiction
    try:
        # For the axes that it leaves open, and for padding.
        sizes.learn(Side.REFERENCE, reference)
    except ShapeContradiction as contradiction:
        # The runs may have other sizes, which is for the verdict, but not other dims.
        num_dims = len(sizes.patterns[Side.REFERENCE].dims)
        other_dims = any(len(shape) != num_dims for shape in reference.values())
        if other_dims or sizes.open():
            raise _contradiction(rule, contradiction) from contradiction
    incomplete = any(
        len(rule.patterns(side)) > len({position.member for position in shapes[side]})
        for side in Side
    )
    for _, name in sizes.open():
        if incomplete or not reference:
            return None
        raise MapError(
            "the size of an axis does not follow from shapes",
            where=rule.place,
            expected=f"a size for axis {name} of '{rule.transform}'",
            got=_described(group, shapes),
            remedy=f"give it: sizes = {{{name} = ...}}",
        )
    return sizes.grid(reference, candidate)


class _Sizes:
    """Sizes of the axes of a group, by name.

    Where the tensors of a side have sizes of their own, the name says whose: ``n.1`` is
    what the second tensor of a list has of the joined axis, ``v@reference`` what the
    reference has of an axis, with padding.
    """

    def __init__(self, rule: TensorRule, group: Group):
        assert rule.transform is not None
        self._rule = rule
        self._group = group
        self.patterns = {
            Side.REFERENCE: rule.transform.reference,
            Side.CANDIDATE: rule.transform.candidate,
        }
        self._known: dict[str, int] = dict(rule.sizes)
        self._list_side = next((s for s in Side if len(rule.patterns(s)) > 1), None)
        if self._list_side is not None:
            in_parts = rule.join in self.patterns[self._list_side].axes
            num_parts = len(rule.patterns(self._list_side))
            of_parts = rule.part_sizes or (None if in_parts else (1,) * num_parts)
            if of_parts is not None:
                for member, size in enumerate(of_parts):
                    self._known[f"{rule.join}.{member}"] = size
        for side in Side:
            by_position = group.reference if side is Side.REFERENCE else group.candidate
            for number, name in enumerate(rule.stacked(side)):
                if by_position and (side is Side.CANDIDATE):
                    last = max(position.indices[number] for position in by_position)
                    self._known[name] = last + 1
        self._link()

    def learn(self, side: Side, shapes: Shapes) -> None:
        """Takes in what the shapes of a side say.

        Raises:
            ShapeContradiction: They contradict what is known.
        """
        found = [
            Shape(
                dims=tuple(
                    tuple(self._name(axis, side, position) for axis in axes)
                    for axes in self.patterns[side].dims
                ),
                lengths=shape,
                name=self._tensor_name(side, position),
            )
            for position, shape in shapes.items()
        ]
        before = -1
        while len(self._known) > before:  # each may let the other go on
            before = len(self._known)
            self._known = solve_sizes(found, self._known)
            self._link()

    def open(self) -> list[tuple[Side, str]]:
        """Sizes that are needed and not known, with the side that has them."""
        missing = []
        for side in Side:
            members = range(len(self._rule.patterns(side)))
            for axis in self.patterns[side].axes:
                if axis in self._rule.unpadded:
                    continue
                if axis == self._rule.join and side is self._list_side:
                    names = [f"{axis}.{member}" for member in members]
                else:
                    names = [axis]
                if any(name not in self._known for name in names):
                    missing.append((side, axis))
        return missing

    def grid(self, reference: Shapes, candidate: Shapes) -> GroupGrid:
        """The tensors on the grid; all sizes are known."""
        targets = {
            Position(member=member, indices=indices)
            for member in range(len(self._rule.reference))
            for indices in self._indices()
        }
        return GroupGrid(
            candidate={
                position: self._tensor(Side.CANDIDATE, position, padded=True)
                for position in candidate
            },
            reference={
                position: self._tensor(Side.REFERENCE, position, padded=False)
                for position in sorted(targets, key=lambda p: (p.indices, p.member))
            },
            padded_reference={
                position: self._tensor(Side.REFERENCE, position, padded=True)
                for position in reference
            },
        )

    def _indices(self) -> Iterable[tuple[int, ...]]:
        indices: list[tuple[int, ...]] = [()]
        for name in self._rule.stacked(Side.REFERENCE):
            indices = [(*i, n) for i in indices for n in range(self._known[name])]
        return indices

    def _tensor(self, side: Side, position: Position, *, padded: bool) -> GridTensor:
        ranges, padding = {}, {}
        for axis in dict.fromkeys(
            (*self.patterns[Side.REFERENCE].axes, *self.patterns[Side.CANDIDATE].axes)
        ):
            length = self._rule.unpadded.get(axis)
            if length is None:
                ranges[axis] = range(self._known[axis])
                continue
            ranges[axis] = range(length)
            held = self._known.get(f"{axis}@{side}", length)
            if held < length:
                raise MapError(
                    "a tensor is shorter than it should be without padding",
                    where=self._rule.place,
                    expected=f"at least {length} along axis {axis}",
                    got=f"{held} in {self._tensor_name(side, position)}",
                    remedy="correct the rule's entry 'unpadded'",
                )
            if padded and held > length:
                padding[axis] = held - length
        if side is self._list_side:
            assert self._rule.join is not None
            first = sum(
                self._known[f"{self._rule.join}.{member}"]
                for member in range(position.member)
            )
            size = self._known[f"{self._rule.join}.{position.member}"]
            ranges[self._rule.join] = range(first, first + size)
        for name, index in zip(self._rule.stacked(side), position.indices, strict=True):
            ranges[name] = range(index, index + 1)
        return GridTensor(pattern=self.patterns[side], ranges=ranges, padding=padding)

    def _name(self, axis: str, side: Side, position: Position) -> str:
        if axis in self._rule.unpadded:
            return f"{axis}@{side}"
        if axis == self._rule.join and side is self._list_side:
            return f"{axis}.{position.member}"
        return axis

    def _link(self) -> None:
        """The joined axis is as long as its parts together."""
        join = self._rule.join
        if join is None or self._list_side is None:
            return
        members = range(len(self._rule.patterns(self._list_side)))
        missing = [m for m in members if f"{join}.{m}" not in self._known]
        total = sum(self._known.get(f"{join}.{m}", 0) for m in members)
        if not missing:
            self._known.setdefault(join, total)
        elif len(missing) == 1 and self._known.get(join, 0) > total:
            self._known[f"{join}.{missing[0]}"] = self._known[join] - total

    def _tensor_name(self, side: Side, position: Position) -> str:
        tensors = (
            self._group.reference if side is Side.REFERENCE else (self._group.candidate)
        )
        return f"{tensors[position]} of the {side}"


def check_shapes(group: Group, grid: GroupGrid, reference: Shapes) -> None:
    """Refuses a transform that arranges the right elements in another shape.

    Other differences of shape are for the verdict: the runs may have other sizes.

    Raises:
        MapError: A shape of the reference contradicts the transform.
    """
    for position, shape in reference.items():
        made = grid.reference.get(position)
        if made is None:
            continue
        recorded = _without_padding(shape, grid.padded_reference[position])
        if made.shape != recorded and _size(made.shape) == _size(recorded):
            raise MapError(
                "a shape contradicts the transform",
                where=group.rule.place,
                expected=f"{list(shape)}, the shape of {group.reference[position]}",
                got=f"{list(made.shape)} from '{group.rule.transform}'",
                remedy="correct the transform: the candidate's dims on the left, the "
                "reference's on the right",
            )


def _without_padding(shape: tuple[int, ...], tensor: GridTensor) -> tuple[int, ...]:
    if not tensor.padding:
        return shape
    bare = GridTensor(pattern=tensor.pattern, ranges=tensor.ranges, padding={})
    return bare.shape


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _contradiction(rule: TensorRule, error: ShapeContradiction) -> MapError:
    return MapError(
        "a shape contradicts the transform",
        where=rule.place,
        expected=f"shapes that fit '{rule.transform}'",
        got=error,
        remedy="correct the transform or the sizes: the candidate's dims on the left, "
        "the reference's on the right",
    )


def _described(group: Group, shapes: Mapping[Side, Shapes]) -> str:
    tensors = {Side.REFERENCE: group.reference, Side.CANDIDATE: group.candidate}
    return "; ".join(
        f"{tensors[side][position]} {list(shape)}"
        for side in Side
        for position, shape in shapes[side].items()
    )
