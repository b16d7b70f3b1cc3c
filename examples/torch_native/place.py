"""Where this rank stands: the device mesh of a run, and the axes that it has."""

import functools
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ttrace.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One rank of a run.

    Attributes:
        mesh: Of all ranks; of the axes ``pp``, ``dp`` and ``tp`` those that are used,
            and ``dp`` always. Under HSDP ``dp`` is ``dp_replicate`` and ``dp_shard``.
        dp_axes: Names of the axes that divide the samples.
        device: Of this process.
    """

    mesh: DeviceMesh
    dp_axes: tuple[str, ...]
    device: torch.device

    @property
    def dp_mesh(self) -> DeviceMesh:
        """The ranks that have the same part of the model, in one axis or two."""
        names = self.dp_axes
        return self.mesh[names[0]] if len(names) == 1 else self.mesh[names]

    @property
    def dp_rank(self) -> int:
        rank = 0
        for axis in self.dp_axes:
            rank = rank * self.size_of(axis) + self.rank_of(axis)
        return rank

    @property
    def dp_size(self) -> int:
        return self.dp_mesh.size()

    def size_of(self, axis: str) -> int:
        """Number of ranks along an axis; 1 if the run does not have it."""
        return self.mesh[axis].size() if axis in self._axes else 1

    def rank_of(self, axis: str) -> int:
        """This rank's place along an axis."""
        return self.mesh[axis].get_local_rank() if axis in self._axes else 0

    @property
    def _axes(self) -> tuple[str, ...]:
        return self.mesh.mesh_dim_names or ()


def find_place(device: torch.device, *, pp: int, tp: int, is_hybrid: bool) -> Place:
    """Lays the processes out; those that are left over divide the samples.

    Args:
        device: Of this process.
        pp: Stages of the pipeline.
        tp: Ranks that share every layer.
        is_hybrid: Two groups of ranks have the whole model each.

    Raises:
        UsageError: The processes cannot be divided.
    """
    world_size = dist.get_world_size()
    divisor = pp * tp * (2 if is_hybrid else 1)
    if world_size % divisor:
        raise UsageError(
            "the processes cannot be divided",
            where=f"--pp {pp}, --tp {tp}{', --dp hsdp' if is_hybrid else ''}",
            expected=f"a multiple of {divisor} processes",
            got=world_size,
            remedy="start another number of processes, or change the options",
        )
    dp_sizes = (
        {"dp_replicate": 2, "dp_shard": world_size // divisor}
        if is_hybrid
        else {"dp": world_size // divisor}
    )
    sizes = {"pp": pp, **dp_sizes, "tp": tp}
    used = {axis: size for axis, size in sizes.items() if axis in dp_sizes or size > 1}
    mesh = _mesh(dist.group.WORLD, device.type, tuple(used.items()))
    return Place(mesh=mesh, dp_axes=tuple(dp_sizes), device=device)


@functools.cache
def _mesh(
    world: object, device_type: str, axes: tuple[tuple[str, int], ...]
) -> DeviceMesh:
    """One mesh of its kind in all trainings of a process.

    DTensor remembers what it did on a mesh, by its shape, and with it process groups.
    """
    names, sizes = zip(*axes, strict=True)
    return init_device_mesh(device_type, sizes, mesh_dim_names=names)
