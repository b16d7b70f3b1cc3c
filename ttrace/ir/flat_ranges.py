"""Ranges of flattened arrays, and what they cover of the tensor that was flattened."""

import itertools
import math

from ttrace.errors import LayoutError
from ttrace.ir.layout import Block, Region, ShardLayout


def flat_range(layout: ShardLayout, start: int, stop: int) -> ShardLayout:
    """The part ``[start, stop)`` of a shard that was flattened in C order.

    This is how distributed optimizers (ZeRO) shard a parameter: the parameter's local
    array is flattened into a bucket and each rank owns a range of it. The dims text
    of the layout, if any, is dropped: ``ttrace.ir.dims_text.flat_part`` keeps it.

    Args:
        layout: Layout of the unflattened shard.
        start: First element of the range, in the flattened local array.
        stop: One past the last element.

    Raises:
        LayoutError: The range reaches outside the shard, or the shard is itself flat.
    """
    size = math.prod(layout.local_shape)
    is_plain = not layout.is_flat and layout.index is None
    if not (is_plain and 0 <= start <= stop <= size):
        raise LayoutError(
            "not a flat range of a shard",
            expected=f"0 <= start <= stop <= {size}, of a shard that is neither flat "
            "nor indexed",
            got=f"[{start}, {stop}) of local shape {list(layout.local_shape)}",
            remedy="check the bucket ranges against the parameter's shape",
        )
    # Flattened, a region is contiguous only if it is part of one row, or full rows: the
    # range is cut into such pieces first, their overlaps with the blocks once more.
    blocks = [
        Block(
            region=Region(
                start=_add(block.region.start, _subtract(run.start, block.local_start)),
                extent=run.extent,
            ),
            local_start=(_flat_index(run.start, layout.local_shape) - start,),
        )
        for piece in regions_of_range(layout.local_shape, start, stop)
        for block in layout.blocks
        for run in contiguous_runs(_overlap(piece, block), layout.local_shape)
    ]
    return ShardLayout(
        global_shape=layout.global_shape,
        local_shape=(stop - start,),
        blocks=tuple(blocks),
        mesh=layout.mesh,
        partial_axes=layout.partial_axes,
        num_partials=layout.num_partials,
    )


def regions_of_range(shape: tuple[int, ...], start: int, stop: int) -> list[Region]:
    """Cuts a range of a flattened array into at most ``2 * ndim - 1`` regions."""
    if start >= stop:
        return []
    if len(shape) < 2:
        return [
            Region(start=(start,) * len(shape), extent=(stop - start,) * len(shape))
        ]
    row = math.prod(shape[1:])

    def within_one_row(low: int, high: int) -> list[Region]:
        index, offset = divmod(low, row)
        inner = regions_of_range(shape[1:], offset, offset + high - low)
        return [
            Region(start=(index, *region.start), extent=(1, *region.extent))
            for region in inner
        ]

    # An incomplete first row, full rows, an incomplete last row; each may be missing.
    full_start = min(stop, -(-start // row) * row)
    full_stop = max(full_start, stop // row * row)
    full_rows = []
    if full_start < full_stop:
        full_rows.append(
            Region(
                start=(full_start // row, *(0 for _ in shape[1:])),
                extent=((full_stop - full_start) // row, *shape[1:]),
            )
        )
    return [
        *within_one_row(start, full_start),
        *full_rows,
        *within_one_row(full_stop, stop),
    ]


def _overlap(region: Region, block: Block) -> Region | None:
    """The part of a region of the local array that a block fills."""
    return region.intersect(Region(start=block.local_start, extent=block.region.extent))


def contiguous_runs(region: Region | None, shape: tuple[int, ...]) -> list[Region]:
    """Cuts a region of a C-ordered array into parts that are contiguous in it."""
    if region is None:
        return []
    num_cut = len(shape)  # leading dims that are cut to single indices
    while num_cut and region.extent[num_cut - 1] == shape[num_cut - 1]:
        num_cut -= 1
    num_cut = max(num_cut - 1, 0)  # the last dim that is not full need not be cut
    extent = (1,) * num_cut + region.extent[num_cut:]
    return [
        Region(start=index + region.start[num_cut:], extent=extent)
        for index in itertools.product(
            *map(range, region.start[:num_cut], region.stop[:num_cut])
        )
    ]


def _flat_index(index: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Position of an element in the flattened array."""
    position = 0
    for i, length in zip(index, shape, strict=True):
        position = position * length + i
    return position


def _add(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _subtract(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(left, right, strict=True))
