"""A trace whose shards are those of another, under other ids and layouts."""

import numpy as np

from ttrace.errors import UsageError
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource


class RegroupedTrace:
    """A ``TraceSource`` whose shards are those of another, under other layouts.

    Attributes:
        name: As of the source that it presents.
        info: What it holds: every shard with the id that it was recorded under.
        incomplete: As of the source.
    """

    def __init__(self, source: TraceSource, info: TraceInfo):
        """Made by ``regroup``."""
        self.name = source.name
        self.info = info
        self.incomplete = source.incomplete
        self._source = source
        self._recorded = {
            (id_, shard.rank): shard
            for id_, record in source.info.tensors.items()
            for shard in record.shards
        }

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a shard as they were recorded.

        Raises:
            UsageError: The shard is not of this trace.
            CorruptTraceError: Its bytes are not those that were written.
        """
        recorded = self._recorded.get((shard.id, shard.rank))
        if recorded is not None:
            return self._source.load(recorded)
        raise UsageError(
            "a shard was looked up in a trace that does not hold it",
            where=self.name,
            got=f"{shard.id}, rank {shard.rank}",
            remedy="take the shards from the info of the same trace",
        )
