"""A trace under other names, whose shards are put together from recorded ones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.compare.numbering import presented_over
from ttrace.errors import UsageError
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.mapping.rearrange import FlippedInPart, GridTensor, Piece, plan_pieces
from ttrace.store.array_cache import KEPT_BYTES, ArrayCache


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


class MappedTrace:
    """A ``TraceSource`` under other names; what it holds is rearranged when loaded.

    Attributes:
        name: As of the source that it presents.
        info: What the mapped trace holds.
        incomplete: As of the source.
    """

    def __init__(
        self,
        source: TraceSource,
        info: TraceInfo,
        plans: Mapping[tuple[int, TensorId], ShardPlan],
    ):
        """Made by ``ttrace.mapping.apply.map_traces``."""
        self.name = source.name
        self.info = info
        self.incomplete = source.incomplete
        self._source = source
        self._plans = plans
        self._kept: ArrayCache[tuple[int, TensorId]] = ArrayCache(KEPT_BYTES)

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
                where=self.name,
                got=f"{shard.id}, rank {shard.rank}",
                remedy="take the shards from the info of the same trace",
            )
        if not plan.pieces and shard.layout == plan.sources[0].layout:
            return self._source.load(plan.sources[0])
        return self._kept.get(key, lambda: self._rearranged(shard, plan))

    def over(self, numbers: TraceSource) -> "MappedTrace":
        """See ``ttrace.compare.numbering.Presentation``."""
        return MappedTrace(
            presented_over(self._source, numbers), self.info, self._plans
        )

    def joined_from(self, tensor_id: TensorId) -> list[tuple[Region, TensorId]]:
        """See the function of that name."""
        record = self.info.tensors.get(tensor_id)
        joined = [
            (piece.target, plan.sources[piece.source].id)
            for shard in (record.shards if record is not None else ())
            for plan in (self._plans[shard.rank, shard.id],)
            for piece in plan.pieces
        ]
        return joined if len({id_ for _, id_ in joined}) > 1 else []

    def _rearranged(self, shard: ShardRecord, plan: ShardPlan) -> np.ndarray:
        values = (
            piece.values(
                self._source.load(plan.sources[piece.source]),
                plan.sources[piece.source].layout,
            )
            for piece in plan.pieces
        )
        if len(plan.pieces) == 1:
            return next(values)
        dtype = self._source.load(plan.sources[0]).dtype
        local = np.empty(shard.layout.local_shape, dtype)
        for piece, block, part in zip(
            plan.pieces, shard.layout.blocks, values, strict=True
        ):
            start = block.local_start[0]
            local[start : start + piece.target.size] = part.reshape(-1)
        return local


def joined_from(
    trace: TraceSource, tensor_id: TensorId
) -> list[tuple[Region, TensorId]]:
    """What a tensor of a mapped trace was joined from, if from several.

    Returns:
        Where each lies in it, and its own id; empty for what one tensor became.
    """
    if not isinstance(trace, MappedTrace):
        return []
    return trace.joined_from(tensor_id)


def merge_shards(
    name: TensorId,
    target: GridTensor,
    sources: Sequence[tuple[GridTensor, ShardRecord]],
    dims: str,
    flipped: Collection[str] = (),
) -> tuple[ShardRecord, ShardPlan] | str | None:
    """One shard out of those of a rank.

    Args:
        name: Of the tensor that is made.
        target: That tensor.
        sources: Tensors of which the rank holds something, with what it holds.
        dims: In words, for the layout.
        flipped: Axes that run the other way in the target.

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
    try:
        pieces = [
            piece
            for number, (source, shard) in enumerate(sources)
            for piece in plan_pieces(
                shard.layout, source, target, number=number, flipped=flipped
            )
        ]
    except FlippedInPart as part:
        return f"a shard holds only a part of axis {part}, which the map flips"
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
