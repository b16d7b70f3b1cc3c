"""A trace under other names, whose shards are put together from recorded ones."""

import collections
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.errors import UsageError
from ttrace.ir.layout import Block, ShardLayout
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.mapping.rearrange import GridTensor, Piece, plan_pieces
from ttrace.store.reader import Trace

_KEPT_BYTES = 1 << 28
"""Rearranged arrays are kept while they are together no larger: several blocks of one
shard are read one after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """How a shard of the mapped trace comes from recorded ones.

    Attributes:
        sources: Shards of one rank, as they were recorded.
        pieces: Which parts of them lie where; empty if the only source is taken as it
            is. In the order of the local array, one behind the other.
    """

    sources: tuple[ShardRecord, ...]
    pieces: tuple[Piece, ...] = ()


class MappedTrace(Trace):
    """A trace under other names; what it holds is rearranged as it is loaded.

    Attributes:
        path: Folder of the trace.
        info: What the mapped trace holds.
        incomplete: As of the trace.
    """

    def __init__(
        self,
        trace: Trace,
        info: TraceInfo,
        plans: Mapping[tuple[int, TensorId], ShardPlan],
    ):
        """Made by ``ttrace.mapping.apply.map_traces``."""
        self.path = trace.path
        self.info = info
        self.incomplete = trace.incomplete
        self._trace = trace
        self._plans = plans
        self._kept: collections.OrderedDict[tuple[int, TensorId], np.ndarray] = (
            collections.OrderedDict()
        )
        self._keeping = threading.Lock()

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a shard.

        Returns:
            The recorded array, a view of it, or a rearranged copy.

        Raises:
            UsageError: The shard is not of this trace.
            CorruptTraceError: Its bytes are not those that were written.
        """
        key = (shard.rank, shard.id)
        plan = self._plans.get(key)
        if plan is None:
            raise UsageError(
                "a shard was looked up in a mapped trace that does not hold it",
                where=self.path,
                got=f"{shard.id}, rank {shard.rank}",
                remedy="take the shards from the info of the same trace",
            )
        if not plan.pieces and shard.layout == plan.sources[0].layout:
            return self._trace.load(plan.sources[0])
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        array = self._rearranged(shard, plan)
        with self._keeping:
            self._kept[key] = array
            total = sum(kept.nbytes for kept in self._kept.values())
            while total > _KEPT_BYTES and len(self._kept) > 1:
                total -= self._kept.popitem(last=False)[1].nbytes
        return array

    def _rearranged(self, shard: ShardRecord, plan: ShardPlan) -> np.ndarray:
        values = (
            piece.values(
                self._trace.load(plan.sources[piece.source]),
                plan.sources[piece.source].layout,
            )
            for piece in plan.pieces
        )
        if len(plan.pieces) == 1:
            return next(values)
        dtype = self._trace.load(plan.sources[0]).dtype
        local = np.empty(shard.layout.local_shape, dtype)
        for piece, block, part in zip(
            plan.pieces, shard.layout.blocks, values, strict=True
        ):
            start = block.local_start[0]
            local[start : start + piece.target.size] = part.reshape(-1)
        return local


def merge_shards(
    name: TensorId,
    target: GridTensor,
    sources: Sequence[tuple[GridTensor, ShardRecord]],
    dims: str,
) -> tuple[ShardRecord, ShardPlan] | str | None:
    """One shard out of those of a rank.

    Returns:
        The shard and its plan; None if they hold nothing of the target; why they
        cannot be merged.
    """
    first = sources[0][1]
    for _, shard in sources:
        if shard.layout.index is not None:
            return "the order of its rows depends on data; a map cannot rearrange it"
        for what in ("dtype", "scale", "exact_replicas"):
            if getattr(shard, what) != getattr(first, what):
                return f"the parts that a map joins differ in {what}"
        for what in ("mesh", "partial_axes", "num_partials"):
            if getattr(shard.layout, what) != getattr(first.layout, what):
                return f"the parts that a map joins differ in their layouts' {what}"
    pieces = [
        piece
        for number, (source, shard) in enumerate(sources)
        for piece in plan_pieces(shard.layout, source, target, number=number)
    ]
    if not pieces:
        return None
    if len(pieces) == 1:
        local_shape = pieces[0].target.extent
        starts: list[tuple[int, ...]] = [(0,) * len(local_shape)]
    else:
        starts = []
        size = 0
        for piece in pieces:
            starts.append((size,))
            size += piece.target.size
        local_shape = (size,)
    layout = ShardLayout(
        global_shape=target.shape,
        local_shape=local_shape,
        blocks=tuple(
            Block(region=piece.target, local_start=start)
            for piece, start in zip(pieces, starts, strict=True)
        ),
        mesh=first.layout.mesh,
        partial_axes=first.layout.partial_axes,
        num_partials=first.layout.num_partials,
        dims=dims,
    )
    shard = replace(
        first,
        id=name,
        layout=layout,
        sequence=min(shard.sequence for _, shard in sources),
    )
    plan = ShardPlan(sources=tuple(shard for _, shard in sources), pieces=tuple(pieces))
    return shard, plan
