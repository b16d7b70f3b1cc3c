"""Puts what the ranks hold together, by tensor id."""

from collections.abc import Sequence

from ttrace.errors import LayoutError
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord, TensorRecord, TraceInfo
from ttrace.store.order import merge_orders
from ttrace.store.ranks import RankPart


def merge_parts(parts: Sequence[RankPart]) -> TraceInfo:
    """Merges the parts of all ranks.

    Args:
        parts: One per rank, sorted by rank.

    Returns:
        Tensors in the order that ``merge_orders`` describes.

    Raises:
        LayoutError: Ranks disagree about the shape of a tensor.
    """
    shards: dict[TensorId, list[ShardRecord]] = {}
    skipped: dict[TensorId, SkippedRecord] = {}
    for part in parts:
        for stored in part.shards:
            shards.setdefault(stored.record.id, []).append(stored.record)
        for record in part.skipped:
            skipped.setdefault(record.id, record)
    order = merge_orders([s.record.id for s in part.shards] for part in parts)
    tensors = {id_: TensorRecord(id=id_, shards=tuple(shards[id_])) for id_ in order}
    for tensor in tensors.values():
        _check_global_shape(tensor)
    return TraceInfo(
        ranks=tuple(part.info for part in parts), tensors=tensors, skipped=skipped
    )


def _check_global_shape(tensor: TensorRecord) -> None:
    ranks_of: dict[tuple[int, ...], list[int]] = {}
    for shard in tensor.shards:
        ranks_of.setdefault(shard.layout.global_shape, []).append(shard.rank)
    if len(ranks_of) > 1:
        raise LayoutError(
            "ranks disagree about the shape of a logical tensor",
            where=tensor.id,
            expected="the same global shape on every rank",
            got="; ".join(
                f"{list(shape)} on rank {', '.join(map(str, ranks))}"
                for shape, ranks in ranks_of.items()
            ),
            remedy="check the rule or the dims text that gives this tensor's layout",
        )
