"""A trace that was never on disk: for tests and notebooks."""

from collections.abc import Iterable, Mapping

import numpy as np

from ttrace.errors import UsageError
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.store.merging import RankRecords, merge_ranks


class MemoryTrace:
    """Records and arrays in memory, as a ``TraceSource``.

    Args:
        info: What it holds.
        arrays: By rank and text of the tensor id. They are neither copied nor checked;
            one that is changed later is compared as it is then.
        name: What reports and messages call it.

    Attributes:
        info: As given.
        arrays: As given.
        name: As given.
        incomplete: Always empty.
    """

    def __init__(
        self,
        info: TraceInfo,
        arrays: Mapping[tuple[int, str], np.ndarray],
        *,
        name: str = "in memory",
    ):
        self.info = info
        self.arrays = dict(arrays)
        self.name = name
        self.incomplete: tuple[str, ...] = ()

    @classmethod
    def of_ranks(
        cls,
        ranks: Iterable[tuple[RankRecords, Mapping[str, np.ndarray]]],
        *,
        name: str = "in memory",
    ) -> "MemoryTrace":
        """Puts together what ranks recorded.

        Args:
            ranks: What each has, sorted by rank, and its arrays by text of the id;
                ``ttrace.recording.memory_sink.MemorySink`` gives both.
            name: What reports and messages call it.

        Raises:
            LayoutError: Ranks disagree about the shape of a tensor.
        """
        ranks = list(ranks)
        return cls(
            merge_ranks([records for records, _ in ranks]),
            {
                (records.info.rank, text): array
                for records, arrays in ranks
                for text, array in arrays.items()
            },
            name=name,
        )

    def load(self, shard: ShardRecord) -> np.ndarray:
        """The array of a shard itself.

        Raises:
            UsageError: The shard is not of this trace.
        """
        key = (shard.rank, str(shard.id))
        if key not in self.arrays:
            raise UsageError(
                "a shard was looked up in a trace that does not hold it",
                where=self.name,
                got=f"{shard.id}, rank {shard.rank}",
                remedy="take the shards from the info of the same trace",
            )
        return self.arrays[key]
