"""Over which axes of a mesh replicas differ that must agree."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from ttrace.ir.trace import TraceInfo


class Apart(Protocol):
    """Two ranks that hold something else, and must hold the same."""

    @property
    def rank(self) -> int:
        """The one."""
        ...

    @property
    def against(self) -> int:
        """The other one."""
        ...


def differing_axes(replicas: Iterable[Apart], mesh: str, info: TraceInfo) -> set[str]:
    """The axes along which ranks differ that hold the same.

    Replicas that differ from rank 0 over tp also do so over tp and dp together; that
    says nothing about dp.

    Args:
        replicas: Those that do not agree, of one tensor.
        mesh: Name of the mesh that it lies on.
        info: Their run.

    Returns:
        Their names; none where the ranks are not both on that mesh.
    """
    coords = coords_on(mesh, info)
    distinct = {
        axes_between(here, there)
        for replica in replicas
        if (here := coords.get(replica.rank)) is not None
        and (there := coords.get(replica.against)) is not None
    }
    smallest = [
        combination
        for combination in distinct
        if not any(other < combination for other in distinct)
    ]
    return set().union(*smallest)


def coords_on(mesh: str, info: TraceInfo) -> dict[int, Mapping[str, int]]:
    """Where each rank of a run is on a mesh, by rank; without those that are not."""
    return {
        rank.rank: each.coords
        for rank in info.ranks
        for each in rank.meshes
        if each.name == mesh
    }


class AxesApart:
    """Along which axes of a mesh two ranks of a run are apart, in words.

    Args:
        info: The run.
    """

    def __init__(self, info: TraceInfo):
        self._info = info
        self._coords: dict[str, Mapping[int, Mapping[str, int]]] = {}

    def between(self, apart: Apart, mesh: str) -> str:
        """E.g. ``tp`` or ``dp+tp``.

        Args:
            apart: The two ranks.
            mesh: Name of the mesh that their tensor lies on.
        """
        if mesh not in self._coords:
            self._coords[mesh] = coords_on(mesh, self._info)
        here = self._coords[mesh].get(apart.rank)
        there = self._coords[mesh].get(apart.against)
        if here is None or there is None:
            return "no common mesh"
        return "+".join(sorted(axes_between(here, there))) or "one place of the mesh"


def axes_between(here: Mapping[str, int], there: Mapping[str, int]) -> frozenset[str]:
    """The axes along which two places of a mesh differ."""
    return frozenset(axis for axis in here if here[axis] != there[axis])
