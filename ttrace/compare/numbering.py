"""Which recorded element each element of a presented trace is.

A trace is presented under other names, in other micro-batches, rearranged. Presented
over numbers in place of its values, in the same way, it says of each element where it
was recorded: so values can be taken the other way, into the shards as a run had them.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource


@runtime_checkable
class Presentation(Protocol):
    """A trace whose shards are those of another one, arranged otherwise."""

    def over(self, numbers: TraceSource) -> TraceSource:
        """The same of a source that holds the same shards with other values."""
        ...


def presented_over(presented: TraceSource, numbers: TraceSource) -> TraceSource:
    """A trace presented as another one is.

    Args:
        presented: The trace, or a presentation of one.
        numbers: Holds the same shards as the trace that was recorded.
    """
    if isinstance(presented, Presentation):
        return presented.over(numbers)
    return numbers


class NumberedTrace:
    """A ``TraceSource`` whose elements are numbers: int64, each once in the trace.

    Attributes:
        name: As of the trace.
        info: Likewise.
        incomplete: Likewise.
    """

    def __init__(self, trace: TraceSource):
        """Numbers the shards in the order in which they are held."""
        self.name = trace.name
        self.info: TraceInfo = trace.info
        self.incomplete: Sequence[str] = trace.incomplete
        self._shards: list[ShardRecord] = []
        self._starts: list[int] = []
        self._first: dict[tuple[object, int], int] = {}
        start = 0
        for record in trace.info.tensors.values():
            for shard in record.shards:
                self._first[shard.id, shard.rank] = start
                self._shards.append(shard)
                self._starts.append(start)
                start += math.prod(shard.layout.local_shape)

    def load(self, shard: ShardRecord) -> np.ndarray:
        """The numbers of a shard's elements, in the dims of its own array."""
        shape = shard.layout.local_shape
        start = self._first[shard.id, shard.rank]
        return np.arange(start, start + math.prod(shape)).reshape(shape)

    def shard_of(self, number: int) -> tuple[ShardRecord, int]:
        """The shard that holds an element, and the number of its first one."""
        index = bisect.bisect_right(self._starts, number) - 1
        # Shards without elements begin where the next one does.
        return self._shards[index], self._starts[index]
