"""Puts what the ranks hold together, by tensor id."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.errors import LayoutError
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import (
    RankInfo,
    ShardRecord,
    SkippedRecord,
    TensorRecord,
    TraceInfo,
)
from ttrace.store.order import merge_orders


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRecords:
    """What one rank recorded, without its arrays.

    Attributes:
        info: What the rank says about the run.
        shards: Its tensors, in order of capture.
        skipped: Tensors it skipped, in order of capture.
    """

    info: RankInfo
    shards: tuple[ShardRecord, ...]
    skipped: tuple[SkippedRecord, ...] = ()


def merge_ranks(ranks: Sequence[RankRecords]) -> TraceInfo:
    """Merges what all ranks recorded.

    Args:
        ranks: One per rank, sorted by rank.

    Returns:
        Tensors in the order that ``merge_orders`` describes.

    Raises:
        LayoutError: Ranks disagree about the shape of a tensor.
    """
    shards: dict[TensorId, list[ShardRecord]] = {}
    skipped: dict[TensorId, SkippedRecord] = {}
    for rank in ranks:
        for shard in rank.shards:
            shards.setdefault(shard.id, []).append(shard)
        for record in rank.skipped:
            skipped.setdefault(record.id, record)
    order = merge_orders([shard.id for shard in rank.shards] for rank in ranks)
    tensors = {id_: TensorRecord(id=id_, shards=tuple(shards[id_])) for id_ in order}
    for tensor in list(tensors.values()):
        uneven = _uneven_of_unknown_layout(tensor)
        if uneven is None:
            _check_global_shape(tensor)
        else:
            skipped.setdefault(tensor.id, uneven)
            del tensors[tensor.id]
    return TraceInfo(
        ranks=tuple(rank.info for rank in ranks), tensors=tensors, skipped=skipped
    )


def _uneven_of_unknown_layout(tensor: TensorRecord) -> SkippedRecord | None:
    """The skip of a tensor of unknown layout that has other shapes on other ranks."""
    shapes = {shard.layout.global_shape for shard in tensor.shards}
    if len(shapes) > 1:
        for shard in tensor.shards:
            if shard.layout.unknown_reason:
                return SkippedRecord(
                    id=tensor.id,
                    rank=shard.rank,
                    sequence=shard.sequence,
                    reason=f"{shard.layout.unknown_reason}; its shape is not the same "
                    "on all ranks",
                )
    return None


def _check_global_shape(tensor: TensorRecord) -> None:
    expected = tensor.global_shape
    if all(shard.layout.global_shape == expected for shard in tensor.shards):
        return
    ranks_of: dict[tuple[int, ...], list[int]] = {}
    for shard in tensor.shards:
        ranks_of.setdefault(shard.layout.global_shape, []).append(shard.rank)
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
