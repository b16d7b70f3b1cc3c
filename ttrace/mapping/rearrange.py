"""Blocks of one tensor as blocks of another: planning, and then copying.

Both tensors are parts of one *grid*, a hyper-rectangle of elementary axes: each dim of
a tensor is made of some of them, and the tensor spans a range of every axis. A
transpose is another order of axes, a split or a join another range, a stack of layers a
tensor that spans all indices of an axis of which the other tensor spans one.

A block of the source is cut into boxes of the grid, each box into regions of the
target. Nothing is gathered: what a rank holds of the target comes from what it holds of
the source. The plan holds no arrays.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.flat_ranges import contiguous_runs, regions_of_range
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.transform import AxisPattern
from ttrace.ir.views import block_view


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTensor:
    """A tensor as a part of the grid.

    Attributes:
        pattern: The axes of each dim.
        ranges: The indices that it spans, for every axis of the grid; a single one for
            an axis that no dim names.
        padding: How many indices more than its range it has, at the end, by axis.
            They belong to no tensor that it is compared with.
    """

    pattern: AxisPattern
    ranges: Mapping[str, range]
    padding: Mapping[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, with padding."""
        return tuple(math.prod(self.lengths(dim)) for dim in range(self.num_dims))

    @property
    def num_dims(self) -> int:
        return len(self.pattern.dims)

    def lengths(self, dim: int) -> tuple[int, ...]:
        """Of each axis of a dim, with padding."""
        return tuple(
            len(self.ranges[axis]) + self.padding.get(axis, 0)
            for axis in self.pattern.dims[dim]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of one block of the source, which is one region of the target.

    Attributes:
        source: Number of the shard that holds it.
        block: The block of that shard.
        region: The part, in the source's tensor.
        lengths: Of the grid's axes within it, in the order of the source's dims.
        order: These axes in the order of the target's dims.
        flipped: Positions in that order of axes that run the other way.
        target: The same elements in the target's tensor.
    """

    source: int
    block: Block
    region: Region
    lengths: tuple[int, ...]
    order: tuple[int, ...]
    flipped: tuple[int, ...] = ()
    target: Region

    def values(self, local: np.ndarray, layout: ShardLayout) -> np.ndarray:
        """The elements in the dims of the target, ``target.extent``.

        A view of the local array where numpy can make one, else a copy.
        """
        values = block_view(local, layout, self.block, self.region)
        arranged = values.reshape(self.lengths).transpose(self.order)
        return np.flip(arranged, self.flipped).reshape(self.target.extent)


class FlippedInPart(Exception):
    """A shard holds only a part of an axis that runs the other way; which one."""


def plan_pieces(
    layout: ShardLayout,
    source: GridTensor,
    target: GridTensor,
    *,
    number: int = 0,
    flipped: Collection[str] = (),
) -> list[Piece]:
    """What a shard of the source holds of the target.

    Args:
        layout: Of the shard; its global shape is that of the source, its rows are not
            indexed.
        source: The tensor that the shard is of.
        target: The tensor wanted.
        number: Number of the shard, for the pieces.
        flipped: Axes that run the other way in the target.

    Returns:
        Disjoint regions of the target; none where the shard holds nothing of it.

    Raises:
        FlippedInPart: The shard holds only a part of such an axis.
    """
    pieces = []
    for block in layout.blocks:
        cuts = (
            regions_of_range(source.lengths(dim), start, stop)
            for dim, (start, stop) in enumerate(
                zip(block.region.start, block.region.stop, strict=True)
            )
        )
        for boxes in itertools.product(*cuts):
            wanted = _wanted(boxes, source, target)
            if wanted is None:
                continue
            pieces += [
                _piece(number, block, part, source, target, flipped)
                for part in _contiguous_in_both(wanted, source, target)
            ]
    return pieces


def _wanted(
    boxes: Sequence[Region], source: GridTensor, target: GridTensor
) -> dict[str, range] | None:
    """The ranges of the grid that a part of the source shares with the target."""
    box = dict(source.ranges)  # axes without a dim: the one index
    for axes, region in zip(source.pattern.dims, boxes, strict=True):
        for axis, start, stop in zip(axes, region.start, region.stop, strict=True):
            first = source.ranges[axis].start
            # Padding lies beyond the range, and is nobody's.
            box[axis] = range(
                first + start, min(first + stop, source.ranges[axis].stop)
            )
    common = {axis: _intersect(box[axis], target.ranges[axis]) for axis in box}
    return common if all(map(len, common.values())) else None


def _intersect(left: range, right: range) -> range:
    return range(max(left.start, right.start), min(left.stop, right.stop))


def _contiguous_in_both(
    box: Mapping[str, range], source: GridTensor, target: GridTensor
) -> list[Mapping[str, range]]:
    """Cuts a box into parts that are a region of either tensor."""
    parts = [box]
    while True:  # a cut for one of them may call for another one for the other
        cut = [
            part
            for wider in parts
            for outer in _contiguous_in(wider, source)
            for part in _contiguous_in(outer, target)
        ]
        if len(cut) == len(parts):
            return parts
        parts = cut


def _contiguous_in(
    box: Mapping[str, range], tensor: GridTensor
) -> list[Mapping[str, range]]:
    """Cuts a box into parts that are a region of a tensor each."""
    runs_of_dims = []
    for dim, axes in enumerate(tensor.pattern.dims):
        start = tuple(box[a].start - tensor.ranges[a].start for a in axes)
        extent = tuple(len(box[a]) for a in axes)
        runs = contiguous_runs(Region(start=start, extent=extent), tensor.lengths(dim))
        runs_of_dims.append(runs)
    parts: list[Mapping[str, range]] = []
    for runs in itertools.product(*runs_of_dims):
        part = dict(box)
        for axes, run in zip(tensor.pattern.dims, runs, strict=True):
            for axis, start, stop in zip(axes, run.start, run.stop, strict=True):
                first = tensor.ranges[axis].start
                part[axis] = range(first + start, first + stop)
        parts.append(part)
    return parts


def _piece(
    number: int,
    block: Block,
    box: Mapping[str, range],
    source: GridTensor,
    target: GridTensor,
    flipped: Collection[str],
) -> Piece:
    for axis in flipped:
        if box[axis] != source.ranges[axis]:
            raise FlippedInPart(axis)
    # Axes of one index need no place of their own in the array.
    source_axes = [axis for axis in source.pattern.axes if len(box[axis]) > 1]
    target_axes = [axis for axis in target.pattern.axes if len(box[axis]) > 1]
    return Piece(
        source=number,
        block=block,
        region=_region(box, source),
        lengths=tuple(len(box[axis]) for axis in source_axes),
        order=tuple(source_axes.index(axis) for axis in target_axes),
        flipped=tuple(n for n, axis in enumerate(target_axes) if axis in flipped),
        target=_region(box, target),
    )


def _region(box: Mapping[str, range], tensor: GridTensor) -> Region:
    """A box in the dims of a tensor, in each of which it is contiguous."""
    starts, extents = [], []
    for dim, axes in enumerate(tensor.pattern.dims):
        position = 0
        for axis, length in zip(axes, tensor.lengths(dim), strict=True):
            position = position * length + box[axis].start - tensor.ranges[axis].start
        starts.append(position)
        extents.append(math.prod(len(box[axis]) for axis in axes))
    return Region(start=tuple(starts), extent=tuple(extents))
