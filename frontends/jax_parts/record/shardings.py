"""Layouts of JAX arrays: a sharding and a shape -> what every device holds.

A rank of a JAX trace is a device, whichever process drives it: its position among the
devices of the run, sorted by id.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from ttrace.errors import LayoutError
from ttrace.frontends.jax_parts.private_jax import device_arrays, spec_entries
from ttrace.frontends.jax_parts.taps.sites import SpecEntry
from ttrace.ir.dims import Dims
from ttrace.ir.layout import Block, Mesh, Region, ShardLayout
from ttrace.ir.sharded_axes import ALL_DEVICES
from ttrace.ir.splits import AXIS_NAME, Dim, Split

if TYPE_CHECKING:  # which jax.Device is, but checkers see a variable there
    from jaxlib._jax import Device
else:
    Device = jax.Device

FLAT_MESH = ALL_DEVICES
"""Name of the mesh of shardings that have none; its one axis counts the ranks."""

FLAT_AXIS = "device"

_KEPT_LAYOUTS = 4096
"""Pairs of sharding and shape whose layouts are kept: a step repeats its own."""


def run_devices() -> tuple[Device, ...]:
    """The devices of the run, those of other processes included, in rank order."""
    return tuple(sorted(jax.devices(), key=lambda device: device.id))


def rank_of(device: Device) -> int:
    """The rank of a device.

    Raises:
        LayoutError: The run does not compute on that device.
    """
    devices = run_devices()
    if device not in devices:
        raise LayoutError(
            "an array lies on a device that is none of the run's",
            expected=f"one of the {len(devices)} devices of {devices[0].platform}",
            got=device,
            remedy="move the array to the default backend, or leave it out with a "
            "filter",
        )
    return devices.index(device)


def local_arrays(array: jax.Array) -> Mapping[Device, jax.Array]:
    """What each device of this process holds of an array; nothing is copied.

    Works for arrays that are still to be summed over mesh axes, too
    (``PartitionSpec(unreduced=...)``).
    """
    parts = device_arrays(array)
    return {next(iter(part.devices())): part for part in parts}


def mesh_of(sharding: Sharding, device: Device) -> Mesh:
    """The mesh that the layouts of a sharding speak of, as one device sees it.

    Args:
        sharding: Of any kind. The mesh of a ``NamedSharding`` is named after its axes
            and sizes (``dp2_tp4``), with a checksum where its devices are not the
            run's in rank order. Any other sharding is said on one axis over all
            devices.
        device: One of the run's devices, on the mesh.

    Raises:
        LayoutError: The device lies outside the mesh, or the mesh has no devices.
    """
    if not isinstance(sharding, NamedSharding):
        return Mesh(
            name=FLAT_MESH,
            sizes={FLAT_AXIS: len(run_devices())},
            coords={FLAT_AXIS: rank_of(device)},
        )
    mesh = _concrete_mesh(sharding)
    places = _places(mesh)
    if device not in places:
        raise LayoutError(
            "a device lies outside the mesh of a sharding",
            where=sharding,
            expected=f"one of {', '.join(map(str, places))}",
            got=device,
            remedy="ask for the meshes of the devices that hold the array only",
        )
    axes = tuple(map(str, mesh.axis_names))
    return Mesh(
        name=_mesh_name(mesh, run_devices()),
        sizes=dict(zip(axes, mesh.devices.shape, strict=True)),
        coords=dict(zip(axes, places[device], strict=True)),
    )


@functools.lru_cache(maxsize=_KEPT_LAYOUTS)
def device_layouts(
    sharding: Sharding, shape: tuple[int, ...]
) -> Mapping[Device, ShardLayout]:
    """What every device holds of a sharded array, those of other processes included.

    Devices that hold the same part get equal blocks: replicas. Mesh axes that the
    array must still be summed over (``PartitionSpec(unreduced=...)``) are partial.

    Args:
        sharding: Of any kind.
        shape: Global shape of the array.

    Raises:
        LayoutError: JAX does not say which part each device holds (a dim that does
            not divide), or a device is none of the run's.
    """
    mesh_name, dims, placed = FLAT_MESH, "", sharding
    partial_axes: tuple[str, ...] = ()
    if isinstance(sharding, NamedSharding):
        mesh = _concrete_mesh(sharding)
        mesh_name = _mesh_name(mesh, run_devices())
        partial_axes = _partial_axes(sharding)
        said = dims_of_sharding(sharding, len(shape))
        dims = "" if said is None else str(said)
        placed = NamedSharding(mesh, PartitionSpec(*spec_entries(sharding.spec)))
    for device in sharding.device_set.difference(run_devices()):
        rank_of(device)  # says what is wrong with it
    try:
        indices = placed.devices_indices_map(shape)
    except (ValueError, NotImplementedError) as error:
        raise LayoutError(
            "JAX does not say which part of an array each device holds",
            where=sharding,
            got=f"shape {list(shape)}: {str(error).splitlines()[0]}",
            remedy="shard dims whose length divides, or leave the array out with a "
            "filter",
        ) from error
    layouts = {}
    for device, index in indices.items():
        region = _region(index or (), shape)
        layouts[device] = ShardLayout(
            global_shape=shape,
            local_shape=region.extent,
            blocks=(Block(region=region, local_start=(0,) * len(shape)),),
            mesh=mesh_name,
            partial_axes=partial_axes,
            dims=dims,
        )
    return MappingProxyType(layouts)


def local_value_layouts(
    dims: Dims, sharding: Sharding, shape: tuple[int, ...], local_axes: Sequence[str]
) -> Mapping[Device, ShardLayout]:
    """What values that were local to a ``shard_map`` are parts of, as dims text says.

    Such values leave the program stacked: the array's leading dims count the mesh axes
    over which they vary. Without dims text, that is their layout (see
    ``device_layouts``). With it they are parts, replicas or partials of a logical
    tensor. Axes that ``shard_map`` left to the compiler shard the values further.

    Args:
        dims: How the local values make up the logical tensor.
        sharding: Of the stacked array.
        shape: Of the stacked array: the sizes of ``local_axes``, then the shape of a
            local value.
        local_axes: The mesh axes that the leading dims count.

    Returns:
        For every device, the layout of its array without the leading dims.

    Raises:
        LayoutError: The text names an axis over which the values do not vary, does not
            fit their shape, or a device does not hold the value of its own place.
    """
    named = [split.axis for dim in dims.dims for split in dim.splits]
    layouts = {}
    for device, stacked in device_layouts(sharding, shape).items():
        mesh = mesh_of(sharding, device)
        for axis in (*named, *dims.partial_axes):
            if axis not in local_axes and mesh.sizes.get(axis, 1) > 1:
                raise LayoutError(
                    "a dims text shards or sums over an axis that tells no values "
                    "apart",
                    where=f"dims {dims}",
                    expected=f"one of {', '.join(local_axes) or 'no axes'}: over the "
                    "others shard_map has the same value everywhere",
                    got=axis,
                    remedy="leave the axis out of the dims text",
                )
        (block,) = stacked.blocks
        count = len(local_axes)
        own = tuple(mesh.coords[axis] for axis in local_axes)
        start, extent = block.region.start, block.region.extent
        if start[:count] != own or set(extent[:count]) - {1}:
            raise LayoutError(
                "a device does not hold the value of its own place in a shard_map",
                where=f"{device}, axes {', '.join(local_axes)}",
                expected=f"place {list(own)}",
                got=f"places {list(start[:count])}, {list(extent[:count])} of them",
                remedy="record it without dims text",
            )
        layout = dims.lower_local(shape[count:], mesh)
        held = Region(start=start[count:], extent=extent[count:])
        layouts[device] = _part_of(layout, held)
    return layouts


def _part_of(layout: ShardLayout, held: Region) -> ShardLayout:
    """The layout of a region of a shard's own array."""
    if held.extent == layout.local_shape:
        return layout
    blocks = []
    for block in layout.blocks:
        common = held.intersect(
            Region(start=block.local_start, extent=block.region.extent)
        )
        if common is not None:
            shift = zip(
                block.region.start, common.start, block.local_start, strict=True
            )
            start = tuple(origin + at - local for origin, at, local in shift)
            blocks.append(
                Block(
                    region=Region(start=start, extent=common.extent),
                    local_start=tuple(
                        at - first
                        for at, first in zip(common.start, held.start, strict=True)
                    ),
                )
            )
    return replace(layout, local_shape=held.extent, blocks=tuple(blocks), dims="")


def _region(index: tuple[slice, ...], shape: tuple[int, ...]) -> Region:
    bounds = [
        part.indices(length)[:2] for part, length in zip(index, shape, strict=True)
    ]
    return Region(
        start=tuple(start for start, _ in bounds),
        extent=tuple(stop - start for start, stop in bounds),
    )


def _partial_axes(sharding: NamedSharding) -> tuple[str, ...]:
    """Mesh axes over which the devices hold partials."""
    unreduced = getattr(sharding.spec, "unreduced", frozenset())
    return tuple(str(axis) for axis in sharding.mesh.axis_names if axis in unreduced)


def _concrete_mesh(sharding: NamedSharding) -> jax.sharding.Mesh:
    if not isinstance(sharding.mesh, jax.sharding.Mesh):
        raise LayoutError(
            "a sharding without devices has no layout",
            where=sharding,
            expected="a mesh of devices",
            got=type(sharding.mesh).__name__,
            remedy="give the sharding of an array, or one on a jax.sharding.Mesh",
        )
    return sharding.mesh


@functools.lru_cache
def _places(mesh: jax.sharding.Mesh) -> Mapping[Device, tuple[int, ...]]:
    """Coordinates on a mesh by device."""
    return {mesh.devices[place]: place for place in np.ndindex(mesh.devices.shape)}


@functools.lru_cache
def _mesh_name(mesh: jax.sharding.Mesh, devices: tuple[Device, ...]) -> str:
    """E.g. ``dp2_tp4``; meshes that place devices otherwise get other names."""
    sizes = zip(mesh.axis_names, mesh.devices.shape, strict=True)
    name = "_".join(f"{axis}{size}" for axis, size in sizes) or "mesh"
    order = [device.id for device in mesh.devices.flat]
    if order == [device.id for device in devices]:
        return name
    return f"{name}_{zlib.crc32(repr(order).encode()):08x}"


def dims_of_sharding(sharding: Sharding, num_dims: int) -> Dims | None:
    """How a sharding places arrays of some number of dims.

    Returns:
        None for a sharding without a spec, and where an axis has a name that dims text
        cannot hold.
    """
    if not isinstance(sharding, NamedSharding):
        return None
    entries = spec_entries(sharding.spec)
    return dims_of_entries(entries, num_dims, _partial_axes(sharding))


def dims_of_entries(
    entries: Sequence[SpecEntry], num_dims: int, partial_axes: Sequence[str] = ()
) -> Dims | None:
    """Dims text of the entries of a spec.

    Args:
        entries: The mesh axes that shard each dim, in its order; may be fewer.
        num_dims: Number of dims of the array.
        partial_axes: Axes over which the arrays must still be summed.

    Returns:
        None where an axis has a name that dims text cannot hold.
    """
    dims = []
    for number in range(num_dims):
        entry = entries[number] if number < len(entries) else None
        axes = () if entry is None else (entry,) if isinstance(entry, str) else entry
        if not all(AXIS_NAME.fullmatch(str(axis)) for axis in axes):
            return None
        splits = tuple(Split(axis=str(axis)) for axis in axes)
        dims.append(Dim(name=f"d{number}", splits=splits))
    return Dims(dims=tuple(dims), partial_axes=tuple(partial_axes))
