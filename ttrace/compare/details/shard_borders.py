"""Where the shards of a run meet along a dim, and which ranks hold which indices."""

from collections.abc import Iterable

import numpy as np

from ttrace.compare.details.tensor_details import ShardBorders
from ttrace.ir.side import Side
from ttrace.ir.trace import TensorRecord

MAX_BORDERS = 256
"""Of a dim with more, none is told: they would be a border everywhere."""

Ranges = list[tuple[int, int]]


def find_borders(
    record: TensorRecord, side: Side, dims: Iterable[int]
) -> list[ShardBorders]:
    """The borders of one run's shards along some dims, of those that have any.

    None where the rows of a shard depend on data: what is known of them are positions,
    not ranges.
    """
    found = []
    for dim in dims:
        held = held_ranges(record, dim)
        starts = {start for ranges in held.values() for start, _ in ranges} - {0}
        if starts and len(starts) <= MAX_BORDERS:
            found.append(
                ShardBorders(side=side.value, dim=dim, positions=tuple(sorted(starts)))
            )
    return found


def held_ranges(record: TensorRecord, dim: int) -> dict[int, Ranges]:
    """Which indices of a dim each rank holds anything of, by rank.

    Returns:
        Start and stop of ranges: ascending, apart. Empty where the rows of a shard
        depend on data.
    """
    if any(shard.layout.index is not None for shard in record.shards):
        return {}
    found: dict[int, Ranges] = {}
    for shard in record.shards:
        regions = [block.region for block in shard.layout.blocks]
        ranges = [(r.start[dim], r.stop[dim]) for r in regions if r.size]
        found[shard.rank] = _joined([*found.get(shard.rank, ()), *ranges])
    return found


def ranks_holding(
    record: TensorRecord, dim: int, ranges: Iterable[tuple[int, int]]
) -> tuple[int, ...]:
    """Ranks that hold some of these indices; empty where all of them do, or none."""
    held = held_ranges(record, dim)
    wanted = list(ranges)
    ranks = [
        rank
        for rank, own in held.items()
        if any(a < stop and start < b for a, b in own for start, stop in wanted)
    ]
    return () if len(ranks) == len(held) else tuple(sorted(ranks))


def joined_bins(edges: np.ndarray, is_in: np.ndarray) -> Ranges:
    """Ranges of indices that chosen bins make up.

    Args:
        edges: int64, ``[bins + 1]``.
        is_in: bool, ``[bins]``.
    """
    chosen = np.flatnonzero(is_in).tolist()
    return _joined([(int(edges[n]), int(edges[n + 1])) for n in chosen])


def _joined(ranges: Ranges) -> Ranges:
    joined: Ranges = []
    for start, stop in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
