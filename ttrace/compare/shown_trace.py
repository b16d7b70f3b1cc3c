"""A trace as it is compared: shards of another one, under other ids and layouts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ttrace.compare.numbering import presented_over
from ttrace.compare.rows import sum_terms
from ttrace.errors import UsageError
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

ShardKey = tuple[TensorId, int]
"""What a shard is known by: the id that it was recorded under, and the rank."""


def shard_key(shard: ShardRecord) -> ShardKey:
    """The key of a shard."""
    return shard.id, shard.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """What a shard stands for, beside itself.

    Attributes:
        shards: Recorded shards of one layout, that are added up; itself among them.
        divisor: What their sum is divided by: their number, for a mean.
    """

    shards: tuple[ShardRecord, ...]
    divisor: int = 1


class ShownTrace:
    """A ``TraceSource`` whose shards are those of another one.

    Attributes:
        name: As of the source that it presents.
        info: What it holds: every shard with the id that it was recorded under, in the
            layout that it is shown in.
        incomplete: As of the source.
    """

    def __init__(
        self,
        source: TraceSource,
        info: TraceInfo,
        *,
        combined: Mapping[ShardKey, Combined] | None = None,
    ):
        """Presents a trace otherwise.

        Args:
            source: The trace.
            info: What is shown of it.
            combined: What some shards stand for, by the key of the shard.
        """
        self.name = source.name
        self.info = info
        self.incomplete = source.incomplete
        self._source = source
        self._combined = combined or {}
        self._recorded = {
            shard_key(shard): shard
            for record in source.info.tensors.values()
            for shard in record.shards
        }

    def over(self, numbers: TraceSource) -> "ShownTrace":
        """See ``Presentation``; what stands for several shards, stands for itself."""
        return ShownTrace(presented_over(self._source, numbers), self.info)

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a shard as they were recorded, in the shape it is shown.

        Raises:
            UsageError: The shard is not of this trace.
            CorruptTraceError: Its bytes are not those that were written.
        """
        recorded = self._recorded.get(shard_key(shard))
        if recorded is None:
            raise UsageError(
                "a shard was looked up in a trace that does not hold it",
                where=self.name,
                got=f"{shard.id}, rank {shard.rank}",
                remedy="take the shards from the info of the same trace",
            )
        values = self._source.load(recorded)
        combined = self._combined.get(shard_key(shard))
        if combined is not None:
            terms = [self._source.load(each) for each in combined.shards]
            values = (sum_terms(terms) / combined.divisor).astype(values.dtype)
        return values.reshape(shard.layout.local_shape)
