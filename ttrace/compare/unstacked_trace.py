"""A trace of which values of single devices are shown as parts of a tensor."""

import numpy as np

from ttrace.compare.per_device_values import device_axes
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource


class UnstackedTrace:
    """A ``TraceSource`` whose shards of single devices are those of a logical tensor.

    Attributes:
        name: As of the source that it presents.
        info: What it holds.
        incomplete: As of the source.
    """

    def __init__(self, source: TraceSource, info: TraceInfo):
        """Made by what knows what the values of devices make up.

        Args:
            source: The run.
            info: Its records, some with layouts without the dims that count devices.
        """
        self.name = source.name
        self.info = info
        self.incomplete = source.incomplete
        self._source = source
        self._recorded = {
            (id_, shard.rank): shard
            for id_, record in source.info.tensors.items()
            if device_axes(record)
            for shard in record.shards
        }

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a shard, in the shape of its layout.

        Raises:
            CorruptTraceError: The bytes of a tensor are not those that were written.
        """
        recorded = self._recorded.get((shard.id, shard.rank), shard)
        return self._source.load(recorded).reshape(shard.layout.local_shape)
