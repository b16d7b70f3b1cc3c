"""Which ranks work on the same micro-batches, read off the meshes of the parameters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ttrace.frontends.torch_parts.tensors import says_its_layout
from ttrace.ir.layout import Mesh

RANKS = "ranks"
"""Name of the mesh that layouts of plain tensors speak of beside DTensors."""

_STAGES = "pp"
"""Name of the axis of a pipeline whose ranks no mesh has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A rank's place among those that divide the micro-batches of a step.

    Attributes:
        mesh: All ranks; those along its uniform axes share their micro-batches.
        index: Place among the shares of the micro-batches.
        size: Number of shares.
        model_axes: The axes that shard the model, not the data.
        stage_axes: Those of the pipeline.
    """

    mesh: Mesh
    index: int
    size: int
    model_axes: tuple[str, ...] = ()
    stage_axes: tuple[str, ...] = ()

    @property
    def data_axes(self) -> tuple[str, ...]:
        """The axes along which ranks have micro-batches of their own."""
        others = (*self.model_axes, *self.stage_axes)
        return tuple(axis for axis in self.mesh.sizes if axis not in others)


def data_parallel(rank: int, size: int) -> Place:
    """The place of a rank where every rank has micro-batches of its own."""
    mesh = Mesh(name="dense", sizes={"dp": size}, coords={"dp": rank})
    return Place(mesh=mesh, index=rank, size=size)


def find_place(
    parameters: Iterable[torch.Tensor],
    averaged: Sequence[tuple[int, ...]],
    *,
    rank: int,
    world_size: int,
    pipeline: Sequence[int] = (),
) -> Place:
    """The place of this rank.

    An axis of a mesh shards the model where parameters are distributed over it and
    nothing averages gradients over it. Ranks of one pipeline share their micro-batches,
    too. All other ranks have micro-batches of their own.

    Args:
        parameters: Those of the model.
        averaged: Global ranks of each object that averages gradients.
        pipeline: Global ranks of this rank's pipeline, in its order; none without one.
        rank: Global rank of this process.
        world_size: Number of processes.
    """
    distributed = [p for p in parameters if says_its_layout(p)]
    meshes = _meshes(distributed)
    if not meshes and pipeline:
        return _pipeline_alone(averaged, rank, world_size, pipeline)
    if not meshes:
        whole_world = [ranks for ranks in averaged if len(ranks) == world_size]
        index = whole_world[0].index(rank) if whole_world else rank
        return data_parallel(index, world_size)
    from ttrace.frontends.torch_parts import dtensor

    base = max(map(dtensor.whole_mesh, meshes), key=lambda mesh: mesh.size())
    names = dtensor.axis_names(base)
    coordinate = [int(place) for place in base.get_coordinate() or ()]
    used = {axis for mesh in meshes for axis in dtensor.axis_names(mesh)}
    model_axes, stage_axes = [], []
    for dim, axis in enumerate(names):
        along = [slice(place, place + 1) for place in coordinate]
        along[dim] = slice(None)
        line = set(map(int, base.mesh[tuple(along)].flatten().tolist()))
        if len(line) > 1 and line <= set(pipeline):
            stage_axes.append(axis)
        elif axis in used and not any(line <= set(ranks) for ranks in averaged):
            model_axes.append(axis)
    sizes = dict(zip(names, map(int, base.shape), strict=True))
    coords = dict(zip(names, coordinate, strict=True))
    if pipeline and not stage_axes and base.size() * len(pipeline) == world_size:
        sizes = {_STAGES: len(pipeline), **sizes}
        coords = {_STAGES: tuple(pipeline).index(rank), **coords}
        stage_axes = [_STAGES]
    elif base.size() != world_size:
        return _outside(base.mesh, sizes, coords, model_axes, rank, world_size)
    index, size = 0, 1
    for axis in sizes:
        if axis not in (*model_axes, *stage_axes):
            index = index * sizes[axis] + coords[axis]
            size *= sizes[axis]
    return Place(
        mesh=Mesh(
            name=RANKS, sizes=sizes, coords=coords, uniform_axes=tuple(model_axes)
        ),
        index=index,
        size=size,
        model_axes=tuple(model_axes),
        stage_axes=tuple(stage_axes),
    )


def _pipeline_alone(
    averaged: Sequence[tuple[int, ...]],
    rank: int,
    world_size: int,
    pipeline: Sequence[int],
) -> Place:
    """The place of a rank where nothing but pipelines and averages tells of it."""
    size = world_size // len(pipeline)
    shares = [ranks for ranks in averaged if len(ranks) == size and rank in ranks]
    index = shares[0].index(rank) if shares else _index_of(pipeline)
    mesh = Mesh(
        name=RANKS,
        sizes={"dp": size, _STAGES: len(pipeline)},
        coords={"dp": index, _STAGES: tuple(pipeline).index(rank)},
    )
    return Place(mesh=mesh, index=index, size=size, stage_axes=(_STAGES,))


def _index_of(ranks: Sequence[int]) -> int:
    """Place of a row, or column, of all ranks among its like, by their lowest rank."""
    stride = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    return ranks[0] // (stride * len(ranks)) * stride + ranks[0] % stride


def _meshes(parameters: Iterable[torch.Tensor]) -> list:
    meshes = []
    for parameter in parameters:
        mesh = getattr(parameter, "device_mesh", None)
        if (
            mesh is not None
            and mesh not in meshes
            and mesh.get_coordinate() is not None
        ):
            meshes.append(mesh)
    return meshes


def _outside(
    mesh: torch.Tensor,
    sizes: dict[str, int],
    coords: dict[str, int],
    model_axes: list[str],
    rank: int,
    world_size: int,
) -> Place:
    """Several meshes of the same size divide the ranks; each is one more share.

    Such meshes are rows, or columns, of all ranks: their order is that of their lowest
    rank. Ranks that lie in another way are taken to share nothing.
    """
    ranks = sorted(map(int, mesh.flatten().tolist()))
    stride = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    regular = ranks == list(range(ranks[0], ranks[-1] + 1, stride))
    if not regular or world_size % len(ranks) or len(model_axes) != len(sizes):
        return data_parallel(rank, world_size)
    index = _index_of(ranks)
    size = world_size // len(ranks)
    return Place(
        mesh=Mesh(
            name=RANKS,
            sizes={"outer": size, **sizes},
            coords={"outer": index, **coords},
            uniform_axes=tuple(model_axes),
        ),
        index=index,
        size=size,
        model_axes=tuple(model_axes),
    )
