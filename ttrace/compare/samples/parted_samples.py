"""Ranks that share a micro-batch, and were given other samples in it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.trace import ShardRecord, TensorRecord
from ttrace.ir.trace_source import TraceSource

_LEAST_DIFFERENCE = 0.1
"""Of the norm: another sample differs by more, and what ranks round by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPair:
    """Two ranks that must be given the same, and are not.

    Attributes:
        rank: The one.
        against: The lower one.
    """

    rank: int
    against: int


def parted_ranks(
    inputs: Iterable[TensorRecord], trace: TraceSource
) -> tuple[RankPair, ...]:
    """Ranks with other values of the same piece of an input, each with the first.

    Args:
        inputs: What the model was given, in some micro-batches.
        trace: The run.

    Returns:
        Each pair once, ascending.

    Raises:
        CorruptTraceError: The bytes of an input are not those that were written.
    """
    found: set[tuple[int, int]] = set()
    for record in inputs:
        first: dict[object, ShardRecord] = {}
        for shard in sorted(record.shards, key=lambda one: one.rank):
            layout = shard.layout
            if layout.partial_axes or layout.index is not None:
                continue
            against = first.setdefault((layout.blocks, shard.dtype), shard)
            if against is not shard and _differ(
                trace.load(shard), trace.load(against), shard.dtype
            ):
                found.add((shard.rank, against.rank))
    return tuple(RankPair(rank=one, against=other) for one, other in sorted(found))


def _differ(ours: np.ndarray, theirs: np.ndarray, dtype: str) -> bool:
    if ours.shape != theirs.shape:
        return True
    if dtype_named(dtype).epsilon is None:
        return not np.array_equal(ours, theirs)
    difference = np.linalg.norm(ours.astype(np.float64) - theirs.astype(np.float64))
    return bool(
        difference > _LEAST_DIFFERENCE * np.linalg.norm(theirs.astype(np.float64))
    )
