"""Simulated ranks: meshes and shards made from a full tensor, for tests.

No process is started and nothing is communicated.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np

from ttrace.errors import LayoutError
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.views import block_view


def meshes(name: str, sizes: Mapping[str, int]) -> list[Mesh]:
    """The mesh as every rank sees it, in rank order.

    Args:
        name: Name of the mesh.
        sizes: Size of each axis; the last one varies fastest with the rank.
    """
    return [
        Mesh(name=name, sizes=dict(sizes), coords=dict(zip(sizes, coords, strict=True)))
        for coords in itertools.product(*map(range, sizes.values()))
    ]


def padding_value(dtype: np.dtype) -> np.generic:
    """What ``cut`` fills padding with: NaN, the largest integer, or True."""
    dtype = np.dtype(dtype)
    if dtype_named(dtype.name).epsilon is not None:
        return dtype.type(np.nan)
    return dtype.type(True if dtype.kind == "b" else np.iinfo(dtype).max)


def cut(full: np.ndarray, layout: ShardLayout) -> np.ndarray:
    """The array of one rank, cut out of the logical tensor.

    Args:
        full: The logical tensor, ``layout.global_shape``.
        layout: What the rank holds.

    Returns:
        A new array, ``layout.local_shape``, in the dtype of ``full``; what no block
        covers holds ``padding_value``.

    Raises:
        LayoutError: The tensor has another shape than the layout says.
    """
    if full.shape != layout.global_shape:
        raise LayoutError(
            "a tensor has another shape than its layout says",
            expected=list(layout.global_shape),
            got=list(full.shape),
            remedy="pass the whole logical tensor",
        )
    local = np.full(layout.local_shape, padding_value(full.dtype), dtype=full.dtype)
    for block in layout.blocks:
        within = tuple(map(slice, block.region.start, block.region.stop))
        block_view(local, layout, block)[...] = full[within]
    return local


def cut_partial(full: np.ndarray, layout: ShardLayout, mesh: Mesh) -> np.ndarray:
    """Like ``cut``, but the arrays of the ranks along the partial axes add up.

    Of every element one of these ranks holds twice the value, the next one its
    negative and the others zero; who does changes from element to element. So the sum
    is exact in every dtype and in every order (while twice the value is finite), and
    no share is mistaken for the tensor.

    Args:
        full: The logical tensor, ``layout.global_shape``; any dtype but bool.
        layout: What the rank holds; without partial axes this is ``cut``.
        mesh: The mesh of the layout, with the coordinates of the rank.

    Returns:
        A new array, ``layout.local_shape``, in the dtype of ``full``.

    Raises:
        LayoutError: The tensor has another shape than the layout says.
    """
    num_shares = math.prod(mesh.sizes[axis] for axis in layout.partial_axes)
    if num_shares == 1:
        return cut(full, layout)
    share = 0
    for axis in layout.partial_axes:
        share = share * mesh.sizes[axis] + mesh.coords[axis]
    owner = np.arange(full.size).reshape(full.shape) % num_shares
    zero = np.zeros((), dtype=full.dtype)
    twice = np.where(owner == share, full + full, zero)
    negative = np.where((owner + 1) % num_shares == share, -full, zero)
    return cut((twice + negative).astype(full.dtype), layout)
