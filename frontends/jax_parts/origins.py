"""Arrays made of elements of tensors with other names and shapes: plans, no arrays.

A port holds the same parameters in another shape: transposed, split into heads, three
of them cut out of one matrix, layers stacked for a scan.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ttrace.errors import UsageError
from ttrace.ir.transform import (
    AxisPattern,
    Shape,
    ShapeContradiction,
    parse_transform,
    solve_sizes,
)

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\*?\}")
"""As in map files, whose ``{path*}`` may stand for several parts of a name."""


@dataclass(frozen=True, slots=True)
class AxisIndex:
    """In a name, stands for the index on an axis of the array.

    Attributes:
        axis: Name of the axis.
    """

    axis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTemplate:
    """Names of tensors that differ in an index.

    Attributes:
        parts: What a name consists of; text stands for itself.
    """

    parts: tuple[str | AxisIndex, ...]

    @classmethod
    def parse(cls, text: str) -> "NameTemplate":
        """Reads ``h.{l}.attn.weight``."""
        # The pattern has one group, so every other piece is a placeholder's name.
        pieces = enumerate(_PLACEHOLDER.split(text))
        return cls(
            parts=tuple(
                AxisIndex(piece) if number % 2 else piece for number, piece in pieces
            )
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes whose indices tell the names apart, each once."""
        found = (part.axis for part in self.parts if isinstance(part, AxisIndex))
        return tuple(dict.fromkeys(found))

    def bound(self, values: Mapping[str, str]) -> "NameTemplate":
        """The names in which some indices are known, as text."""
        return NameTemplate(
            parts=tuple(
                values.get(part.axis, part) if isinstance(part, AxisIndex) else part
                for part in self.parts
            )
        )

    def filled(
        self,
        indices: Mapping[str, int],
        members: Mapping[str, tuple["NameTemplate", ...]],
    ) -> str:
        """One name.

        Args:
            indices: By axis.
            members: What stands for an index, by axis; the number where nothing does.
        """
        texts = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
            elif part.axis in members:
                member = members[part.axis][indices[part.axis]]
                texts.append(member.filled(indices, members))
            else:
                texts.append(str(indices[part.axis]))
        return "".join(texts)

    def __str__(self) -> str:
        return "".join(
            f"{{{part.axis}}}" if isinstance(part, AxisIndex) else part
            for part in self.parts
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which elements of which tensors an array holds.

    A query kernel ``[l, d, n, e]`` of stacked layers, out of one fused matrix for each
    layer: ``Origin(name="h.{l}.attn.c_attn.weight", transform="l d n e -> d (q n e)",
    sizes={"q": 3}, at={"q": 0})``.

    Attributes:
        name: Name of the tensor, as text or as a value. A placeholder is an axis of the
            array that the tensor does not have: each index of it is a tensor of its
            own.
        members: What stands for a placeholder, by index on its axis; numbers from 0
            where it is left out.
        transform: From the dims of the array to those of the tensor, in the notation of
            map files (``ttrace.ir.transform``); empty if they are the same.
        sizes: Lengths of axes that the array's shape does not determine; of an axis
            that the tensor has more of than the array: how many the tensor has.
        at: Where the array begins on an axis of the tensor; 0 if left out. An axis that
            the array does not have at all must be given.
        counts: How many of such an axis the array has, where its shape does not say.
    """

    name: str | NameTemplate
    members: Mapping[str, tuple[str | NameTemplate, ...]] = field(default_factory=dict)
    transform: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    at: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedAxis:
    """One axis of a dim of the array.

    Attributes:
        length: Its length in the array.
        stride: Elements of the tensor between two indices; 0 if it has no such axis.
        member_stride: Tensors between two indices; 0 but for placeholders.
    """

    length: int
    stride: int
    member_stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Where in C order every element of an array lies in its tensor.

    Attributes:
        size: Number of elements of each tensor.
        dims: The axes of each dim of the array, outermost first.
        first: Position of the array's first element.
    """

    size: int
    dims: tuple[tuple[PlacedAxis, ...], ...]
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginPlan:
    """Where every element of an array comes from.

    Attributes:
        names: The tensors.
        positions: The places in them.
    """

    names: tuple[str, ...]
    positions: Positions


def plan_origin(origin: Origin, shape: tuple[int, ...]) -> OriginPlan:
    """Works out positions from names and shapes.

    Args:
        origin: What the array is made of.
        shape: Shape of the array.

    Raises:
        MapError: The transform is malformed.
        UsageError: Shape, sizes and transform contradict each other, or leave
            something open.
    """
    if origin.transform:
        transform = parse_transform(origin.transform, where=origin.name)
        left, right = transform.candidate, transform.reference
    else:
        axes = tuple((f"d{number}",) for number in range(len(shape)))
        left = right = AxisPattern(dims=axes)
    # What the tensor has more of says nothing about the array.
    known = {axis: len(texts) for axis, texts in origin.members.items()}
    known |= {axis: n for axis, n in origin.sizes.items() if axis not in origin.at}
    known |= {axis: n for axis, n in origin.counts.items() if axis in left.axes}
    whole_shape = Shape(dims=left.dims, lengths=shape, name="the array")
    try:
        lengths = solve_sizes([whole_shape], known)
    except ShapeContradiction as contradiction:
        raise _error(origin, shape, str(contradiction)) from contradiction
    _check(origin, shape, left, right, lengths)
    sizes = lengths | dict(origin.sizes)
    strides = _strides(right.axes, sizes)
    name, given = _template(origin.name), _members(origin)
    members = _placeholders(origin)
    member_strides = _strides(members, lengths)
    return OriginPlan(
        names=tuple(
            name.filled(dict(zip(members, indices, strict=True)), given)
            for indices in itertools.product(
                *(range(lengths[axis]) for axis in members)
            )
        ),
        positions=Positions(
            size=math.prod(sizes[axis] for axis in right.axes),
            dims=tuple(
                tuple(
                    PlacedAxis(
                        length=lengths[axis],
                        stride=strides.get(axis, 0),
                        member_stride=member_strides.get(axis, 0),
                    )
                    for axis in dim
                )
                for dim in left.dims
            ),
            first=sum(start * strides[axis] for axis, start in origin.at.items()),
        ),
    )


def _check(
    origin: Origin,
    shape: tuple[int, ...],
    left: AxisPattern,
    right: AxisPattern,
    lengths: Mapping[str, int],
) -> None:
    members = set(_placeholders(origin))
    only_left = set(left.axes) - set(right.axes)
    if members != only_left:
        raise _error(
            origin,
            shape,
            f"axes {_listed(only_left)} are the array's alone, the name has "
            f"placeholders {_listed(members)}",
        )
    for axis in left.axes:
        if axis not in lengths:
            raise _error(origin, shape, f"the size of axis {axis} is not known")
    for axis in (*origin.sizes, *origin.at, *origin.counts):
        if axis not in {*left.axes, *right.axes}:
            raise _error(origin, shape, f"no side of the transform has axis {axis}")
    for axis in right.axes:
        if (
            axis not in left.axes
            and not {axis} <= origin.sizes.keys() & origin.at.keys()
        ):
            raise _error(origin, shape, f"sizes and at do not both say axis {axis}")
    for axis, start in origin.at.items():
        stop = start + (lengths[axis] if axis in left.axes else 1)
        size = origin.sizes.get(axis, 0)
        if axis not in right.axes or not 0 <= start < stop <= size:
            raise _error(
                origin, shape, f"[{start}, {stop}) of axis {axis}, which has {size}"
            )


def _template(name: str | NameTemplate) -> NameTemplate:
    return NameTemplate.parse(name) if isinstance(name, str) else name


def _members(origin: Origin) -> dict[str, tuple[NameTemplate, ...]]:
    return {axis: tuple(map(_template, of)) for axis, of in origin.members.items()}


def _placeholders(origin: Origin) -> tuple[str, ...]:
    """Those of the name first, then those of what stands for them."""
    templates = [_template(origin.name), *itertools.chain(*_members(origin).values())]
    return tuple(dict.fromkeys(axis for each in templates for axis in each.axes))


def _strides(axes: tuple[str, ...], sizes: Mapping[str, int]) -> dict[str, int]:
    strides, stride = {}, 1
    for axis in reversed(axes):
        strides[axis] = stride
        stride *= sizes[axis]
    return strides


def _listed(axes: set[str]) -> str:
    return ", ".join(sorted(axes)) or "none"


def _error(origin: Origin, shape: tuple[int, ...], got: str) -> UsageError:
    return UsageError(
        "an array cannot be made of the tensors that its origin names",
        where=f"{origin.name}, {origin.transform or 'no transform'}",
        expected=f"a transform and sizes that fit an array of shape {list(shape)}",
        got=got,
        remedy="correct the origin",
    )
