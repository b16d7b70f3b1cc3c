"""Buffers of which each data-parallel rank keeps one of its own.

Frontends record running statistics rank by rank where nothing says that they are
synchronized. Whether they are shows in their values: those of a module whose ranks all
have the same, bit for bit, are replicas. Others are of no use to a comparison.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from ttrace.compare.layouts.per_device_values import device_axes
from ttrace.compare.shown_trace import ShownTrace
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord
from ttrace.ir.trace_source import TraceSource


def agreeing_buffers(
    run: TraceSource, side: Side
) -> tuple[TraceSource, Mapping[TensorId, str]]:
    """Shows buffers that all ranks agree on as the replicas that they are.

    Reads the buffers that were recorded rank by rank.

    Returns:
        The run, and why a buffer is not compared.

    Raises:
        CorruptTraceError: The bytes of a buffer are not those that were written.
    """
    modules: dict[tuple[int, str], list[TensorRecord]] = {}
    for id_, record in run.info.tensors.items():
        if id_.kind is Kind.UPDATED_BUFFER and device_axes(record):
            modules.setdefault((id_.step, id_.module), []).append(record)
    if not modules:
        return run, {}
    tensors = dict(run.info.tensors)
    aside: dict[TensorId, str] = {}
    for records in modules.values():
        # Counters agree whatever the statistics do.
        floating = [r for r in records if dtype_named(r.shards[0].dtype).epsilon]
        if floating and all(_agrees(record, run) for record in floating):
            for record in records:
                shards = map(_replica, record.shards)
                tensors[record.id] = TensorRecord(id=record.id, shards=tuple(shards))
        else:
            axes = " and ".join(device_axes(records[0]))
            aside |= {
                record.id: f"{side}: running statistics of each rank's own "
                f"micro-batches, which no run on one process has: the ranks along "
                f"{axes} have different ones"
                for record in records
            }
    return ShownTrace(run, replace(run.info, tensors=tensors)), aside


def _agrees(record: TensorRecord, run: TraceSource) -> bool:
    """Whether all places along the axes were recorded, and have the same values."""
    num_axes = len(device_axes(record))
    places = {shard.layout.blocks[0].region.start[:num_axes] for shard in record.shards}
    if len(places) != math.prod(record.global_shape[:num_axes]):
        return False
    values = [run.load(shard) for shard in record.shards]
    return all(array.tobytes() == values[0].tobytes() for array in values)


def _replica(shard: ShardRecord) -> ShardRecord:
    layout = shard.layout
    shape = layout.global_shape[len(layout.device_axes) :]
    origin = (0,) * len(shape)
    whole = Block(region=Region(start=origin, extent=shape), local_start=origin)
    agreed = ShardLayout(
        global_shape=shape, local_shape=shape, blocks=(whole,), mesh=layout.mesh
    )
    return replace(shard, layout=agreed)
