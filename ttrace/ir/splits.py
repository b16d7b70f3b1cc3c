"""One dim of a text and how axes split it: modifiers, their arithmetic, what is left.

The text around them and the lowering of whole tensors lie in ``ttrace.ir.dims``.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ttrace.errors import LayoutError


class Modifier(StrEnum):
    """Which elements of a dim a coordinate on the axis holds.

    With ``length`` the length of the dim and ``n`` the size of the axis:

    ============ ==================================================================
    ``even``     ``n`` equal ranges; what an axis without a modifier means
    ``zigzag``   ``2n`` equal chunks; coordinate r holds chunks r and ``2n - 1 - r``
    ``parts``    the dim is a concatenation, each part of it split evenly on its own
    ``chunk``    ranges of ``ceil(length / n)``; the last may be short or empty
    ``uneven``   ranges that differ by at most one; the first are the longer ones
    ``sizes``    ranges of the given sizes
    ``padded``   ``even``, after padding the dim to a multiple of ``k * n``
    ``shared``   ``n / k`` equal ranges, each held by ``k`` neighbours on the axis
    ============ ==================================================================
    """

    EVEN = "even"
    ZIGZAG = "zigzag"
    PARTS = "parts"
    CHUNK = "chunk"
    UNEVEN = "uneven"
    SIZES = "sizes"
    PADDED = "padded"
    SHARED = "shared"


PARTIAL = "partial"
"""The word that begins the list of axes to sum over; no dim has that name."""

INDEX = "@index"
"""Stands where axes stand, at a dim whose rows a recorded tensor names."""

DIM_NAME = re.compile(r"[A-Za-z_]\w*|1")
"""What a dims text accepts as the name of a dim."""

AXIS_NAME = re.compile(r"[A-Za-z_][\w-]*")
"""What a dims text accepts as the name of a mesh axis."""


def require_axis_name(axis: str) -> None:
    """Refuses a name that no dims text could hold.

    Raises:
        LayoutError: It is not made of letters, digits, ``_`` and ``-``.
    """
    if not AXIS_NAME.fullmatch(axis):
        raise LayoutError(
            "not the name of a mesh axis",
            expected="letters, digits, _ and -, no digit first",
            got=repr(axis),
            remedy="rename the axis",
        )


_NUMBERS = {
    Modifier.PARTS: "a number of parts or the size of each: parts(2), parts(64,32,32)",
    Modifier.SIZES: "one size per coordinate on the axis: sizes(3,5)",
    Modifier.PADDED: "one number, at least 1: padded(128)",
    Modifier.SHARED: "one number, at least 1: shared(2)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One axis that splits a dim, or a flattened array.

    Attributes:
        axis: Name of the mesh axis.
        modifier: How it splits.
        numbers: Arguments of ``parts`` (one number: how many equal parts; more: the
            size of each part), ``sizes`` (one per coordinate), ``padded`` (one) and
            ``shared`` (one).
    """

    axis: str
    modifier: Modifier = Modifier.EVEN
    numbers: tuple[int, ...] = ()

    def __post_init__(self):
        require_axis_name(self.axis)
        smallest = 0 if self.modifier is Modifier.SIZES else 1
        sound = all(number >= smallest for number in self.numbers)
        match self.modifier:
            case Modifier.PARTS | Modifier.SIZES:
                sound = sound and len(self.numbers) > 0
            case Modifier.PADDED | Modifier.SHARED:
                sound = sound and len(self.numbers) == 1
            case _:
                sound = not self.numbers
        if not sound:
            raise LayoutError(
                "a modifier with the wrong numbers",
                where=f"axis {self.axis}",
                expected=_NUMBERS.get(self.modifier, f"{self.modifier}, no numbers"),
                got=_call(self.modifier, self.numbers),
                remedy="correct the dims text",
            )

    def __str__(self) -> str:
        if self.modifier is Modifier.EVEN:
            return self.axis
        return f"{self.axis}:{_call(self.modifier, self.numbers)}"

    @property
    def is_one_range(self) -> bool:
        """Whether every coordinate holds a single range."""
        return self.modifier not in (Modifier.ZIGZAG, Modifier.PARTS)

    def ranges(self, length: int, size: int, coord: int, *, where: str) -> list[range]:
        """What one coordinate holds, in the order of its local array.

        Args:
            length: Length of what is split.
            size: Size of the axis.
            coord: Coordinate on the axis.
            where: The place, for messages.

        Returns:
            Disjoint ranges. Only those of ``padded`` reach beyond ``length``.

        Raises:
            LayoutError: The length cannot be split in that way.
        """
        match self.modifier:
            case Modifier.EVEN:
                each = self._divide(length, size, where)
                return [_nth(coord, each)]
            case Modifier.ZIGZAG:
                if size == 1:
                    return [range(length)]
                each = self._divide(length, 2 * size, where)
                return [_nth(coord, each), _nth(2 * size - 1 - coord, each)]
            case Modifier.PARTS:
                ranges = []
                for part in _consecutive(self._part_lengths(length, where)):
                    each = self._divide(len(part), size, where)
                    ranges.append(part[coord * each : (coord + 1) * each])
                return ranges
            case Modifier.CHUNK:
                return [range(length)[_as_slice(_nth(coord, -(-length // size)))]]
            case Modifier.UNEVEN:
                each, longer = divmod(length, size)
                sizes = [each + (index < longer) for index in range(size)]
                return [_consecutive(sizes)[coord]]
            case Modifier.SIZES:
                self._require_total(length, where)
                if len(self.numbers) != size:
                    raise LayoutError(
                        "as many sizes are needed as the axis is long",
                        where=where,
                        expected=f"{size} sizes",
                        got=_call(self.modifier, self.numbers),
                        remedy="give one size per coordinate on the axis",
                    )
                return [_consecutive(self.numbers)[coord]]
            case Modifier.PADDED:
                multiple = self.numbers[0] * size
                padded = -(-length // multiple) * multiple
                return [_nth(coord, padded // size)]
            case Modifier.SHARED:
                num_ranges = self._num_ranges(size, where)
                each = self._divide(length, num_ranges, where)
                return [_nth(coord // self.numbers[0], each)]

    def length_before(self, local_length: int, size: int) -> int | None:
        """The length that a split left ``local_length`` of; None if it is not known."""
        match self.modifier:
            case Modifier.EVEN | Modifier.ZIGZAG:
                return local_length * size
            case Modifier.PARTS if len(self.numbers) == 1:
                return local_length * size
            case Modifier.PARTS | Modifier.SIZES:
                return sum(self.numbers)
            case Modifier.SHARED:
                return local_length * size // self.numbers[0]
            case Modifier.CHUNK | Modifier.UNEVEN if size == 1:
                return local_length
            case _:
                return None

    def _part_lengths(self, length: int, where: str) -> Sequence[int]:
        if len(self.numbers) == 1:
            (num_parts,) = self.numbers
            return [self._divide(length, num_parts, where)] * num_parts
        self._require_total(length, where)
        return self.numbers

    def _num_ranges(self, size: int, where: str) -> int:
        (num_holders,) = self.numbers
        if size % num_holders:
            raise LayoutError(
                "an axis cannot be divided into neighbours of that number",
                where=where,
                expected=f"a divisor of the axis's size, {size}",
                got=_call(self.modifier, self.numbers),
                remedy="correct the number in the dims text",
            )
        return size // num_holders

    def _require_total(self, length: int, where: str) -> None:
        if sum(self.numbers) != length:
            raise LayoutError(
                f"the {self.modifier} do not add up to the dim",
                where=where,
                expected=length,
                got=f"{' + '.join(map(str, self.numbers))} = {sum(self.numbers)}",
                remedy="correct the numbers in the dims text, or the shape",
            )

    def _divide(self, length: int, divisor: int, where: str) -> int:
        if length % divisor:
            raise LayoutError(
                f"{self} does not divide its dim",
                where=where,
                expected=f"a length divisible by {divisor}",
                got=length,
                remedy="correct the shape, or say chunk, uneven, sizes(...) or "
                "padded(...) after the axis",
            )
        return length // divisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Dim:
    """One dim of the text.

    Attributes:
        name: Its name, or ``1``.
        splits: The axes that split it, outermost first.
        is_indexed: A recorded tensor says which index each row is; no axis splits it.
    """

    name: str
    splits: tuple[Split, ...] = ()
    is_indexed: bool = False

    def __post_init__(self):
        if not DIM_NAME.fullmatch(self.name) or self.name == PARTIAL:
            raise LayoutError(
                "not the name of a dim",
                expected=f"letters, digits and _, no digit first, not {PARTIAL}; or 1",
                got=repr(self.name),
                remedy="rename the dim",
            )
        if self.name == "1" and (self.splits or self.is_indexed):
            raise LayoutError(
                "a dim of length 1 cannot be split",
                got=str(self),
                remedy="give the dim a name, or take the axes away",
            )
        if self.splits and self.is_indexed:
            raise LayoutError(
                "a dim is split by axes or indexed, not both",
                got=self.name + bracketed(self.splits),
                remedy=f"keep either the axes or {INDEX}",
            )

    def __str__(self) -> str:
        if self.is_indexed:
            return f"{self.name}[{INDEX}]"
        return self.name + bracketed(self.splits)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatCut:
    """An explicit range of a flattened local array.

    Attributes:
        start: First element.
        stop: One past the last.
    """

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


def bracketed(cuts: tuple[Split | FlatCut, ...]) -> str:
    """The list of cuts behind a dim or an array; nothing if there are none."""
    return f"[{','.join(map(str, cuts))}]" if cuts else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DimBlock:
    """What a block is along one dim: a range, and where the local array holds it.

    Attributes:
        global_start: First index in the logical tensor.
        local_start: First index in the local array.
        extent: Number of indices.
    """

    global_start: int
    local_start: int
    extent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DimLayout:
    """What a layout is along one dim: the ranges of it that a rank holds.

    Attributes:
        length: Length of the local array; what no block covers is padding.
        blocks: Disjoint, in local order, neighbours joined.
    """

    length: int
    blocks: tuple[DimBlock, ...]

    def take(self, ranges: Sequence[range]) -> "DimLayout":
        """What is left when these ranges of the local array are kept, in their order.

        Args:
            ranges: Disjoint; where they reach beyond the array, padding is added.
        """
        blocks: list[DimBlock] = []
        length = 0
        for kept in ranges:
            for block in self.blocks:
                start = max(block.local_start, kept.start)
                stop = min(block.local_start + block.extent, kept.stop)
                if start >= stop:
                    continue
                piece = DimBlock(
                    global_start=block.global_start + start - block.local_start,
                    local_start=length + start - kept.start,
                    extent=stop - start,
                )
                if blocks and _continues(blocks[-1], piece):
                    last = blocks.pop()
                    piece = replace(last, extent=last.extent + piece.extent)
                blocks.append(piece)
            length += len(kept)
        return DimLayout(length=length, blocks=tuple(blocks))


def _continues(first: DimBlock, second: DimBlock) -> bool:
    return (
        first.global_start + first.extent == second.global_start
        and first.local_start + first.extent == second.local_start
    )


def _call(modifier: Modifier, numbers: tuple[int, ...]) -> str:
    return f"{modifier}({','.join(map(str, numbers))})" if numbers else f"{modifier}"


def _nth(index: int, each: int) -> range:
    return range(index * each, (index + 1) * each)


def _as_slice(elements: range) -> slice:
    return slice(elements.start, elements.stop)


def _consecutive(lengths: Sequence[int]) -> list[range]:
    stops = itertools.accumulate(lengths)
    return [
        range(stop - length, stop) for length, stop in zip(lengths, stops, strict=True)
    ]
