"""Which samples each rank of a run holds of a tensor."""

import re
from dataclasses import dataclass

from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo

_AXIS = re.compile(r"\[(\w+)")
"""An axis in the dims text of a layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRanges:
    """How dim 0 is cut, where ranks hold ranges of it and all of the other dims.

    Attributes:
        ranges: Start and stop of each, several, one behind the other.
        axis: The axis of the mesh that it is sharded over; None if that is not one.
    """

    ranges: tuple[tuple[int, int], ...]
    axis: str | None


def ranges_of(tensor_id: TensorId, info: TraceInfo) -> RankRanges | None:
    """Those of a tensor; None where it is not cut so.

    Args:
        tensor_id: The tensor.
        info: The run.
    """
    record = info.tensors.get(tensor_id)
    if record is None or not record.global_shape:
        return None
    found: set[tuple[int, int]] = set()
    for shard in record.shards:
        for block in shard.layout.blocks:
            region = block.region
            if region.extent[1:] != record.global_shape[1:]:
                return None
            found.add((region.start[0], region.stop[0]))
    ranges = sorted(found)
    stops = [stop for _, stop in ranges]
    starts = [start for start, _ in ranges]
    is_whole = starts == [0, *stops[:-1]] and stops[-1] == record.global_shape[0]
    if len(ranges) < 2 or not is_whole:
        return None
    dims = record.shards[0].layout.dims or ""
    axes = _AXIS.findall(dims.split()[0] if dims else "")
    return RankRanges(ranges=tuple(ranges), axis=axes[0] if len(axes) == 1 else None)
