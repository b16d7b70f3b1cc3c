"""Over which mesh axes the ranks of a run hold other parts of a tensor."""

from collections.abc import Mapping, Sequence

from ttrace.ir.trace import RankInfo, TensorRecord

ALL_DEVICES = "devices"
"""The mesh that JAX has of all devices, beside those of the script: what lies on one of
them is not sharded."""


class ShardedAxes:
    """Tells it of the tensors of one run.

    Args:
        ranks: The run's.
    """

    def __init__(self, ranks: Sequence[RankInfo]):
        self._coords: dict[str, dict[int, Mapping[str, int]]] = {}
        for rank in ranks:
            for mesh in rank.meshes:
                if mesh.name == ALL_DEVICES:
                    continue
                self._coords.setdefault(mesh.name, {})[rank.rank] = mesh.coords
        self._lines: dict[tuple[str, int], dict[str, list[int]]] = {}

    def of(self, record: TensorRecord) -> tuple[str, ...]:
        """The axes along which ranks hold other parts of it, or nothing of it.

        Seen from the first rank that holds some of it: along each axis alone.
        """
        first = record.shards[0]
        held = {shard.rank: shard.layout.blocks for shard in record.shards}
        lines = self._lines_through(first.layout.mesh, first.rank)
        return tuple(
            axis
            for axis, ranks in lines.items()
            if any(held.get(rank) != first.layout.blocks for rank in ranks)
        )

    def _lines_through(self, mesh: str, rank: int) -> dict[str, list[int]]:
        """By axis the ranks that differ from a rank in their place along it alone."""
        if (mesh, rank) not in self._lines:
            places = self._coords.get(mesh, {})
            here = places.get(rank, {})
            lines: dict[str, list[int]] = {axis: [] for axis in here}
            for other, there in places.items():
                differing = [axis for axis in here if there[axis] != here[axis]]
                if len(differing) == 1:
                    lines[differing[0]].append(other)
            self._lines[mesh, rank] = lines
        return self._lines[mesh, rank]
