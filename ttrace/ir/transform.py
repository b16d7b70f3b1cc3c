"""Transforms as text, and the sizes of their axes.

A transform is written as in einops: ``d (n o) -> n o d`` reads: the second dim is ``n``
blocks of ``o``; they become dims of their own, and ``d`` comes last. The left side is a
tensor of the candidate, the right side one of the reference. Here these names are
*elementary* axes of a tensor; they have nothing to do with the axes of a device mesh.
An axis that runs the other way on one side has a minus there: in
``i o h w -> o i -h -w`` the kernel of a convolution is flipped.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ttrace.errors import MapError

_TOKEN = re.compile(r"\(|\)|-?[A-Za-z_]\w*|1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPattern:
    """One side of a transform; ``str()`` of it is its text.

    Attributes:
        dims: For each dim of the tensor the axes that it is made of, outermost first;
            none for a dim of length 1.
    """

    dims: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return " ".join(
            axes[0] if len(axes) == 1 else f"({' '.join(axes)})" if axes else "1"
            for axes in self.dims
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """All axes, from left to right."""
        return tuple(axis for dim in self.dims for axis in dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """How the elements of the candidate's tensor lie in the reference's.

    Attributes:
        candidate: The left side.
        reference: The right side.
        flipped: Axes that run the other way on one of the sides; on both.
    """

    candidate: AxisPattern
    reference: AxisPattern
    flipped: frozenset[str] = frozenset()

    def __str__(self) -> str:
        dims = tuple(
            tuple(f"-{axis}" if axis in self.flipped else axis for axis in dim)
            for dim in self.reference.dims
        )
        return f"{self.candidate} -> {AxisPattern(dims=dims)}"

    @property
    def is_identity(self) -> bool:
        """Whether both sides are the same."""
        return self.candidate == self.reference and not self.flipped

    def inverse(self) -> "Transform":
        """The way back."""
        return Transform(
            candidate=self.reference, reference=self.candidate, flipped=self.flipped
        )


def parse_transform(text: str, *, where: object = None) -> Transform:
    """Reads a transform.

    Args:
        text: E.g. ``d (n o) -> n o d``.
        where: The place of the text, for errors.

    Raises:
        MapError: It is malformed, or names an axis twice on one side.
    """
    sides = text.split("->")
    if len(sides) != 2:
        raise _malformed(text, where)
    left, right = (_parse_side(side, text, where) for side in sides)
    return Transform(
        candidate=left[0], reference=right[0], flipped=frozenset(left[1] ^ right[1])
    )


def _parse_side(side: str, text: str, where: object) -> tuple[AxisPattern, set[str]]:
    """The axes of a side, and those of them that have a minus."""
    if _TOKEN.sub("", side).strip():
        raise _malformed(text, where)
    dims: list[tuple[str, ...]] = []
    group: list[str] | None = None
    flipped = {token[1:] for token in _TOKEN.findall(side) if token[0] == "-"}
    for token in _TOKEN.findall(side):
        token = token.removeprefix("-")
        if token == "(":
            if group is not None:
                raise _malformed(text, where)
            group = []
        elif token == ")":
            if group is None:
                raise _malformed(text, where)
            dims.append(tuple(group))
            group = None
        elif group is not None:
            group += [] if token == "1" else [token]
        else:
            dims.append(() if token == "1" else (token,))
    pattern = AxisPattern(dims=tuple(dims))
    if group is not None:
        raise _malformed(text, where)
    for axis in pattern.axes:
        if pattern.axes.count(axis) > 1:
            raise MapError(
                "a transform names an axis twice on one side",
                where=where,
                expected=f"axis {axis} once on each side",
                got=repr(text),
                remedy="give every axis a name of its own",
            )
    return pattern, flipped


def _malformed(text: str, where: object) -> MapError:
    return MapError(
        "a transform is malformed",
        where=where,
        expected="two sides of names, 1, and groups of them in parentheses, such as "
        "'d (n o) -> n o d'",
        got=repr(text),
        remedy="write the candidate's dims on the left, the reference's on the right",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a tensor's shape says about sizes of axes.

    Attributes:
        dims: For each dim of the tensor the names of the sizes that multiply to its
            length.
        lengths: The lengths of the dims; None where no tensor is known.
        name: What the tensor is called in errors.
    """

    dims: tuple[tuple[str, ...], ...]
    lengths: tuple[int, ...]
    name: object


class ShapeContradiction(Exception):
    """A shape does not fit the sizes that are known; the message says why."""


def solve_sizes(shapes: Iterable[Shape], known: Mapping[str, int]) -> dict[str, int]:
    """Sizes of axes, as far as shapes determine them.

    Args:
        shapes: Of tensors that share axes.
        known: Sizes that are known before.

    Raises:
        ShapeContradiction: A shape has another number of dims than its pattern, or a
            length that no size of its axes gives.
    """
    sizes = dict(known)
    pending = []
    for shape in shapes:
        if len(shape.dims) != len(shape.lengths):
            raise ShapeContradiction(
                f"{shape.name} has {len(shape.lengths)} dims, shape "
                f"{list(shape.lengths)}, where the transform has {len(shape.dims)}"
            )
        pending += [
            (axes, length, shape)
            for axes, length in zip(shape.dims, shape.lengths, strict=True)
        ]
    progress = True
    while pending and progress:
        progress = False
        for equation in list(pending):
            axes, length, shape = equation
            unknown = [axis for axis in axes if axis not in sizes]
            product = math.prod(sizes[axis] for axis in axes if axis in sizes)
            if len(unknown) > 1 or (unknown and product == 0):
                continue
            pending.remove(equation)
            progress = True
            if unknown and length % product == 0:
                sizes[unknown[0]] = length // product
            elif unknown or product != length:
                known_sizes = ", ".join(
                    f"{axis} {sizes[axis]}" for axis in axes if axis in sizes
                )
                raise ShapeContradiction(
                    f"{shape.name} has a dim of length {length}, shape "
                    f"{list(shape.lengths)}, where the transform has "
                    f"({' '.join(axes)}) with {known_sizes or 'length 1'}"
                )
    return sizes
