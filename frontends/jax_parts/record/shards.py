"""From a captured value to what each rank holds of it: host arrays and layouts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ttrace.frontends.jax_parts.harvest.captured import Capture, Part
from ttrace.frontends.jax_parts.record.shardings import (
    Device,
    device_layouts,
    dims_of_entries,
    dims_of_sharding,
    local_arrays,
    local_value_layouts,
    mesh_of,
    rank_of,
)
from ttrace.frontends.jax_parts.taps.sites import SpecEntry
from ttrace.ir.dims import Dims
from ttrace.ir.layout import Block, Mesh, Region, ShardLayout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankShard:
    """What one rank holds of a captured value.

    Attributes:
        layout: Which part of the logical tensor it is.
        array: A copy on the host; ``layout.local_shape``.
    """

    layout: ShardLayout
    array: np.ndarray


_SEVERAL = "some of the devices took another branch"

_LocalCopies = dict[Device, tuple[int, np.ndarray]]
"""Rank and host copy by device."""


class HostShards:
    """Copies the values of one step to the host, each array once.

    The iterations of a loop leave a program as one array; each is a part of it.
    """

    def __init__(self):
        self._copies: dict[int, tuple[jax.Array, _LocalCopies]] = {}

    def of(
        self,
        part: Part,
        dims: Dims | None = None,
        *,
        tiling: tuple[SpecEntry, ...] | None = None,
        summed_axes: tuple[str, ...] = (),
    ) -> Mapping[int, RankShard]:
        """What the ranks of this process hold of a value.

        Args:
            part: The value.
            dims: Of a value that was local to a ``shard_map``: how the values of the
                devices make up the logical tensor, as the script says.
            tiling: The same, as the specs of the ``shard_map`` say, where the script
                says nothing. Without either, their axes are its leading dims.
            summed_axes: Axes over which the values of the devices are summands, where
                neither says anything: all of theirs, or none.

        Returns:
            By rank; a rank that holds nothing of it is not there.

        Raises:
            LayoutError: No layout says what the devices hold.
        """
        array, index = part.array, part.index
        if part.axes and dims is None:
            if _num_places(part) == 1:
                tiling = ()  # the value of the only device is the logical one
            if tiling is not None:
                dims = dims_of_entries(tiling, part.num_dims)
            elif summed_axes and set(part.axes) <= set(summed_axes):
                dims = dims_of_entries((), part.num_dims, part.axes)
        if part.axes and dims is not None:
            array, index = part.take(), (0,) * len(part.axes)
            sharding = array.sharding
            layouts = local_value_layouts(dims, sharding, array.shape, part.axes)
            return {
                rank: RankShard(layout=layouts[device], array=copy[(*index, ...)])
                for device, (rank, copy) in self._local(array).items()
            }
        layouts = device_layouts(array.sharding, array.shape)
        dims = dims_of_sharding(array.sharding, array.ndim)
        shards = {}
        for device, (rank, copy) in self._local(array).items():
            selected = _selected(layouts[device], index, dims)
            if selected is not None:
                layout, local_index = selected
                layout = replace(
                    layout,
                    device_axes=part.axes,
                    unknown_reason=_unknown_reason(part.axes),
                )
                shards[rank] = RankShard(layout=layout, array=copy[(*local_index, ...)])
        return shards

    def whole(self, array: jax.Array) -> Any:
        """An array, as what was written into the copies of it makes it.

        What ``of`` gives of a value are views of them.

        Args:
            array: The one of which parts were asked for.

        Returns:
            Of the same shape and sharding; a host array where JAX may place it.
        """
        copies = self._local(array)
        if not array.committed:
            return next(iter(copies.values()))[1]
        return jax.make_array_from_single_device_arrays(
            array.shape,
            array.sharding,
            [jax.device_put(copy, device) for device, (_, copy) in copies.items()],
        )

    def _local(self, array: jax.Array) -> _LocalCopies:
        if id(array) not in self._copies:
            copies = {
                device: (rank_of(device), np.array(local))
                for device, local in local_arrays(array).items()
            }
            self._copies[id(array)] = (array, copies)
        return self._copies[id(array)][1]


def branch_reason(capture: Capture) -> str | None:
    """Why a value counts for nothing that only some of the devices computed."""
    if capture.taken is None:
        return None
    flags = capture.taken.take()
    if flags.is_fully_addressable and bool(np.all(flags)):
        return None
    return _SEVERAL


def meshes_of(arrays: Sequence[jax.Array]) -> dict[int, tuple[Mesh, ...]]:
    """The meshes on which arrays are laid out, as each local rank sees them."""
    found: dict[int, dict[str, Mesh]] = {}
    for sharding in {array.sharding for array in arrays}:
        for device in sharding.addressable_devices:
            mesh = mesh_of(sharding, device)
            found.setdefault(rank_of(device), {})[mesh.name] = mesh
    return {rank: tuple(meshes.values()) for rank, meshes in found.items()}


def _unknown_reason(axes: tuple[str, ...]) -> str:
    if not axes:
        return ""
    return (
        f"recorded device by device over {', '.join(axes)}: say with dims={{...}} or "
        "ttrace.tap(spec=...) how the devices' values make up the tensor"
    )


def _num_places(part: Part) -> int:
    """How many values of devices a value consists of."""
    sizes = zip(part.array.shape, part.index, strict=False)
    return math.prod(size for size, at in sizes if isinstance(at, slice))


def _selected(
    layout: ShardLayout, index: Sequence[int | slice], dims: Dims | None
) -> tuple[ShardLayout, tuple[int | slice, ...]] | None:
    """The layout of one iteration of a loop, and where a shard's array has it.

    Args:
        layout: Of the array with all iterations.
        index: Selects the iteration out of the leading dims.
        dims: Of the array with all iterations; None where no text says them.

    Returns:
        None where the shard has other iterations only.
    """
    if not index:
        return layout, ()
    (block,) = layout.blocks
    start, extent = block.region.start, block.region.extent
    local: list[int | slice] = []
    kept = [*range(len(index), len(start))]
    for dim, at in enumerate(index):
        if isinstance(at, slice):
            local.append(at)
            kept.append(dim)
            continue
        if not start[dim] <= at < start[dim] + extent[dim]:
            return None
        local.append(at - start[dim])
    kept.sort()
    region = Region(
        start=tuple(start[dim] for dim in kept),
        extent=tuple(extent[dim] for dim in kept),
    )
    return (
        ShardLayout(
            global_shape=tuple(layout.global_shape[dim] for dim in kept),
            local_shape=region.extent,
            blocks=(Block(region=region, local_start=(0,) * len(kept)),),
            mesh=layout.mesh,
            partial_axes=layout.partial_axes,
            dims="" if dims is None else str(_kept_dims(dims, kept)),
        ),
        tuple(local),
    )


def _kept_dims(dims: Dims, kept: Sequence[int]) -> Dims:
    """Some of the dims, counted anew."""
    left = (
        replace(dims.dims[dim], name=f"d{number}") for number, dim in enumerate(kept)
    )
    return replace(dims, dims=tuple(left))
