"""Tensors of two runs whose shapes differ only in dims of length 1, in one shape."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ttrace.compare.align import Match
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord
from ttrace.ir.trace_source import TraceSource


def broadcast_shape(match: Match) -> tuple[int, ...] | None:
    """The shape that both sides broadcast to, or None if there is none.

    Only dims of length 1 are repeated, and none is added. What does not say by blocks
    of all its dims where its elements are is not broadcast.
    """
    records = (match.reference, match.candidate)
    shapes = [record.global_shape for record in records]
    if len(shapes[0]) != len(shapes[1]) or 0 in (*shapes[0], *shapes[1]):
        return None
    pairs = list(zip(*shapes, strict=True))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        return None
    shape = tuple(max(pair) for pair in pairs)
    for record in records:
        for shard in record.shards:
            layout = shard.layout
            if layout.is_flat or layout.index is not None or layout.device_axes:
                return None
            if any(layout.local_shape[dim] > 1 for dim in _repeated(layout, shape)):
                return None  # padded
    return shape


class BroadcastTrace:
    """A ``TraceSource`` of one tensor of another, with dims of length 1 repeated.

    Attributes:
        name: As of the source.
        info: As of the source.
        incomplete: As of the source.
        record: The tensor in its new shape.
    """

    def __init__(
        self, source: TraceSource, record: TensorRecord, shape: tuple[int, ...]
    ):
        """Shows a tensor in another shape.

        Args:
            source: Holds it.
            record: The tensor.
            shape: One that ``broadcast_shape`` found.
        """
        self.name = source.name
        self.info = source.info
        self.incomplete = source.incomplete
        self.record = replace(
            record,
            shards=tuple(
                replace(shard, layout=_broadcast(shard.layout, shape))
                for shard in record.shards
            ),
        )
        self._source = source
        self._recorded: Mapping[tuple[TensorId, int], ShardRecord] = {
            (shard.id, shard.rank): shard for shard in record.shards
        }

    def load(self, shard: ShardRecord) -> np.ndarray:
        """The values of a shard of ``record``, as a view.

        Raises:
            CorruptTraceError: Its bytes are not those that were written.
        """
        values = self._source.load(self._recorded[shard.id, shard.rank])
        return np.broadcast_to(values, shard.layout.local_shape)


def _repeated(layout: ShardLayout, shape: tuple[int, ...]) -> list[int]:
    """The dims that a layout gets more of."""
    pairs = zip(layout.global_shape, shape, strict=True)
    return [dim for dim, (own, length) in enumerate(pairs) if own != length]


def _broadcast(layout: ShardLayout, shape: tuple[int, ...]) -> ShardLayout:
    repeated = _repeated(layout, shape)
    local_shape = list(layout.local_shape)
    for dim in repeated:
        local_shape[dim] *= shape[dim]
    blocks = []
    for block in layout.blocks:
        extent = list(block.region.extent)
        for dim in repeated:
            extent[dim] *= shape[dim]
        region = Region(start=block.region.start, extent=tuple(extent))
        blocks.append(Block(region=region, local_start=block.local_start))
    return replace(
        layout,
        global_shape=shape,
        local_shape=tuple(local_shape),
        blocks=tuple(blocks),
    )
