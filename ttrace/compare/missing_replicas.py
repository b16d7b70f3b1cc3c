"""Ranks that run the same modules as others, and did not record what those did.

Replicas that are there are compared with each other. One that is not there would be
missed by nobody: the other ranks' blocks cover the tensor without it.
"""

from collections.abc import Mapping

from ttrace.ir.trace import TensorRecord, TraceInfo

UniformGroups = Mapping[str, Mapping[int, frozenset[int]]]
"""By mesh and rank: the recorded ranks that run the same modules on the same data."""


def uniform_groups(info: TraceInfo) -> UniformGroups:
    """Groups the ranks of a run along the uniform axes of each of its meshes."""
    members: dict[str, dict[object, set[int]]] = {}
    keys: dict[str, dict[int, object]] = {}
    for rank_info in info.ranks:
        for mesh in rank_info.meshes:
            key = tuple(
                (axis, coord)
                for axis, coord in mesh.coords.items()
                if axis not in mesh.uniform_axes
            )
            keys.setdefault(mesh.name, {})[rank_info.rank] = key
            members.setdefault(mesh.name, {}).setdefault(key, set()).add(rank_info.rank)
    groups = {
        name: {key: frozenset(ranks) for key, ranks in of_key.items()}
        for name, of_key in members.items()
    }
    return {
        name: {rank: groups[name][key] for rank, key in of_rank.items()}
        for name, of_rank in keys.items()
    }


def ranks_missing_replicas(
    record: TensorRecord, groups: UniformGroups
) -> tuple[int, ...]:
    """Ranks that ought to have recorded a tensor, and did not.

    Args:
        record: The tensor. Only those of a micro-batch are taken and given by modules;
            what an optimizer holds may be sharded over any axis.
        groups: Of its run.
    """
    if record.id.microbatch is None:
        return ()
    holders = {shard.rank for shard in record.shards}
    alike = {
        groups.get(shard.layout.mesh, {}).get(shard.rank, frozenset())
        for shard in record.shards
    }
    return tuple(sorted(frozenset().union(*alike) - holders))
