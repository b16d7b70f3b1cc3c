"""A parameter before and after a step, as a coarser dtype would have stored it."""

from collections.abc import Sequence

import numpy as np

from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource


class RoundedUpdate:
    """A source whose parameter takes its update in a coarser dtype; others are as is.

    Args:
        source: Holds the parameter in a finer dtype.
        before: The parameter before the step.
        after: The same after it.
        dtype: The coarser dtype.
    """

    def __init__(
        self,
        source: TraceSource,
        before: TensorRecord,
        after: TensorRecord,
        dtype: np.dtype,
    ):
        self._source = source
        self._after = after.id
        self._before = {shard.rank: shard for shard in before.shards}
        self._dtype = dtype
        self.is_possible = all(
            shard.rank in self._before
            and self._before[shard.rank].layout == shard.layout
            for shard in after.shards
        )
        """Whether every rank holds the same part before and after."""

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def info(self) -> TraceInfo:
        return self._source.info

    @property
    def incomplete(self) -> Sequence[str]:
        return self._source.incomplete

    def load(self, shard: ShardRecord) -> np.ndarray:
        """The values of a shard, rounded to the coarser dtype, in its own."""
        array = self._source.load(shard)
        if shard.id != self._after:
            return array.astype(self._dtype).astype(array.dtype)
        before = self._source.load(self._before[shard.rank])
        update = array.astype(np.float64) - before.astype(np.float64)
        start = before.astype(self._dtype).astype(np.float64)
        return (start + update).astype(self._dtype).astype(array.dtype)
