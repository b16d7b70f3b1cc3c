"""Tensors of torch.distributed that wrap others: DTensor, and results on their way.

Placements become blocks by arithmetic alone. Nothing communicates; the result of a
collective that runs in the background is waited for.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from ttrace.frontends.torch_parts.local_tensor import NoLayout, TensorType
from ttrace.ir.layout import Block, Mesh, Region, ShardLayout

Run = tuple[int, int]
"""Start and length of a run of indices along one dim."""


def own_type_of(tensor: torch.Tensor) -> TensorType | None:
    """How a tensor of one of these types is read; None for any other."""
    if isinstance(tensor, DTensor):
        return _DTENSOR
    if isinstance(tensor, AsyncCollectiveTensor):
        return _ASYNC
    return None


def layout_of(tensor: DTensor) -> tuple[ShardLayout, Mesh] | NoLayout:
    """What part of the logical tensor the rank's local one is, and on which mesh."""
    return layout_on(tensor.device_mesh, tuple(tensor.shape), tensor.placements)


def layout_on(
    device_mesh: DeviceMesh, shape: tuple[int, ...], placements: Sequence[Placement]
) -> tuple[ShardLayout, Mesh] | NoLayout:
    """What part of a logical tensor of a shape this rank has, and on which mesh."""
    coordinate = device_mesh.get_coordinate()
    if coordinate is None:
        return NoLayout(reason="this rank has no place on the mesh of this DTensor")
    mesh = mesh_of(device_mesh)
    axes = axis_names(device_mesh)
    partial_axes = []
    for axis, placement in zip(axes, placements, strict=True):
        if type(placement) is Partial and placement.reduce_op == "sum":
            partial_axes.append(axis)
        elif not isinstance(placement, Replicate | Shard | _StridedShard):
            return NoLayout(
                reason=f"its placement over {axis} is {placement!r}, and of partial "
                "values ttrace adds up sums only; redistribute it, or give ttrace its "
                "full_tensor()"
            )
    if partial_axes and math.prod(mesh.sizes.values()) != dist.get_world_size():
        return NoLayout(
            reason=f"it is still to be summed over {', '.join(partial_axes)}, and its "
            f"mesh ({mesh.name}) has no place for every rank of the run, so that "
            "which of them add up is not known; slice the mesh from one over all ranks"
        )
    runs = held_runs(shape, tuple(device_mesh.shape), tuple(coordinate), placements)
    layout = ShardLayout(
        global_shape=shape,
        local_shape=tuple(sum(length for _, length in dim) for dim in runs),
        blocks=_blocks(runs),
        mesh=mesh.name,
        partial_axes=tuple(partial_axes),
    )
    return layout, mesh


def held_runs(
    shape: tuple[int, ...],
    mesh_shape: tuple[int, ...],
    coordinate: tuple[int, ...],
    placements: Sequence[Placement],
) -> list[list[Run]]:
    """The indices that one place of a mesh holds of each dim, in the order it does.

    Mesh axes shard from left to right, each what the one before has left, as
    ``torch.chunk`` cuts. ``_StridedShard(dim, split_factor)`` shards a dim that an axis
    to its right has cut already: into ``split_factor`` pieces, each of which is cut.

    Args:
        shape: Of the logical tensor.
        mesh_shape: Size of each mesh axis.
        coordinate: Of the place, on each mesh axis.
        placements: One for each mesh axis; those that do not shard change nothing.
    """
    runs: list[list[Run]] = [[(0, length)] for length in shape]
    for size, place, placement in zip(mesh_shape, coordinate, placements, strict=True):
        # In some releases of torch it is a Shard, in others not.
        if isinstance(placement, _StridedShard):
            runs[placement.dim] = [
                run
                for piece in _chunks(runs[placement.dim], int(placement.split_factor))
                for run in _chunk(piece, size, place)
            ]
        elif isinstance(placement, Shard):
            runs[placement.dim] = _chunk(runs[placement.dim], size, place)
    return [_joined(dim) for dim in runs]


def axis_names(device_mesh: DeviceMesh) -> tuple[str, ...]:
    """Names of the axes; ``axis0`` and so on where the mesh has none."""
    names = device_mesh.mesh_dim_names
    return names or tuple(f"axis{index}" for index in range(device_mesh.ndim))


def mesh_of(device_mesh: DeviceMesh) -> Mesh:
    """The mesh as a trace knows it: the whole one, of which this may be a part.

    Ranks along the axes that a part leaves out are told apart only by the whole one.
    """
    root = whole_mesh(device_mesh)
    coordinate = root.get_coordinate()
    assert coordinate is not None, "a part of a mesh has no more ranks than the whole"
    axes = axis_names(root)
    sizes = dict(zip(axes, map(int, root.shape), strict=True))
    return Mesh(
        name=",".join(f"{axis}={size}" for axis, size in sizes.items()),
        sizes=sizes,
        coords=dict(zip(axes, map(int, coordinate), strict=True)),
    )


def whole_mesh(device_mesh: DeviceMesh) -> DeviceMesh:
    """The mesh that this one was sliced from; itself where its axes are not there."""
    get_root: Any = getattr(device_mesh, "_get_root_mesh", None)
    root = device_mesh if get_root is None else get_root()
    is_slice = set(axis_names(device_mesh)) <= set(axis_names(root))
    return root if is_slice and root.get_coordinate() is not None else device_mesh


def _chunks(runs: list[Run], num_chunks: int) -> list[list[Run]]:
    """Cuts runs as ``torch.chunk`` cuts a dim; the last ones may be empty."""
    return [_chunk(runs, num_chunks, place) for place in range(num_chunks)]


def _chunk(runs: list[Run], num_chunks: int, place: int) -> list[Run]:
    """One of the chunks."""
    length = -(-sum(length for _, length in runs) // num_chunks)
    low, high = length * place, length * (place + 1)
    chunk = []
    offset = 0
    for start, extent in runs:
        first, last = max(low, offset), min(high, offset + extent)
        if first < last:
            chunk.append((start + first - offset, last - first))
        offset += extent
    return chunk


def _joined(runs: list[Run]) -> list[Run]:
    """Runs that follow each other as one."""
    joined: list[Run] = []
    for start, length in runs:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined


def _blocks(runs: list[list[Run]]) -> tuple[Block, ...]:
    """A block for every combination of runs; none where a dim has none."""
    placed = []
    for dim in runs:
        locals_ = itertools.accumulate((length for _, length in dim), initial=0)
        placed.append([(*run, local) for run, local in zip(dim, locals_, strict=False)])
    return tuple(
        Block(
            region=Region(
                start=tuple(start for start, _, _ in combination),
                extent=tuple(length for _, length, _ in combination),
            ),
            local_start=tuple(local for _, _, local in combination),
        )
        for combination in itertools.product(*placed)
    )


def _like_dtensor(tensor: DTensor, values: torch.Tensor) -> torch.Tensor:
    return DTensor.from_local(
        values,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


_DTENSOR = TensorType(
    values=lambda tensor: tensor._local_tensor, layout=layout_of, like=_like_dtensor
)

_ASYNC = TensorType(
    values=lambda tensor: tensor.wait(),
    layout=None,
    like=lambda tensor, values: values,
)
