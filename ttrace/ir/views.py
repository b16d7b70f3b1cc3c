"""Views of the blocks of a shard's array; the only place where layouts meet arrays."""

import numpy as np

from ttrace.errors import LayoutError
from ttrace.ir.layout import Block, Region, ShardLayout


def block_view(
    local: np.ndarray,
    layout: ShardLayout,
    block: Block,
    region: Region | None = None,
) -> np.ndarray:
    """The elements of a block, or of a part of it, in the dims of the logical tensor.

    Args:
        local: The shard's own array, ``layout.local_shape``; any dtype and strides.
        layout: Its layout.
        block: One of the layout's blocks.
        region: The part wanted, in coordinates of the logical tensor; the whole block
            if None.

    Returns:
        ``region.extent``, a view of ``local``: nothing is copied.

    Raises:
        LayoutError: The array is not of that layout, or the region not in the block.
    """
    region = block.region if region is None else region
    if local.shape != layout.local_shape:
        raise LayoutError(
            "an array has another shape than its layout says",
            expected=list(layout.local_shape),
            got=list(local.shape),
            remedy="pass the array that was recorded with this layout",
        )
    is_all = region is block.region or region == block.region
    if is_all and region.extent == local.shape:
        return local  # all of it: as nearly all tensors of a run on one rank are
    within = region.slices_within(block.region)
    if not all(
        0 <= part.start and part.stop <= extent
        for part, extent in zip(within, block.region.extent, strict=True)
    ):
        raise LayoutError(
            "a region is not part of its block",
            expected=f"within start {list(block.region.start)}, "
            f"stop {list(block.region.stop)}",
            got=f"start {list(region.start)}, stop {list(region.stop)}",
            remedy="intersect the region with the block first",
        )
    if layout.is_flat:
        (start,) = block.local_start
        whole = local[start : start + block.region.size].reshape(block.region.extent)
    else:
        held = Region(start=block.local_start, extent=block.region.extent)
        whole = local[(*_slices(held), ...)]
    return whole[(*within, ...)]  # with "..." a scalar stays an array


def _slices(region: Region) -> tuple[slice, ...]:
    return tuple(map(slice, region.start, region.stop))
