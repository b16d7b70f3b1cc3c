"""Over which axes of a mesh replicas differ that must agree."""

from collections.abc import Iterable, Mapping

from ttrace.compare.execute import ReplicaResult
from ttrace.ir.trace import TraceInfo


def differing_axes(
    replicas: Iterable[ReplicaResult], mesh: str, info: TraceInfo
) -> set[str]:
    """The axes along which ranks differ that hold the same.

    Replicas that differ from rank 0 over tp also do so over tp and dp together; that
    says nothing about dp.

    Args:
        replicas: Those that do not agree, of one tensor.
        mesh: Name of the mesh that it lies on.
        info: Their run.
    """
    meshes = {rank.rank: rank.mesh for rank in info.ranks}
    distinct = {
        _between(
            meshes[replica.rank](mesh).coords, meshes[replica.against](mesh).coords
        )
        for replica in replicas
    }
    smallest = [
        combination
        for combination in distinct
        if not any(other < combination for other in distinct)
    ]
    return set().union(*smallest)


def _between(here: Mapping[str, int], there: Mapping[str, int]) -> frozenset[str]:
    return frozenset(axis for axis in here if here[axis] != there[axis])
