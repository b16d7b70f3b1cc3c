"""Traces in memory of tensors whose rows recorded tensors name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tests.factories.traces import MESH, MemoryTrace, Tensor, memory_trace
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import ShardLayout
from ttrace.ir.row_index import IndexPart, RowIndex
from ttrace.ir.tensor_id import INDEX_SLOT, parse_tensor_id
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo
from ttrace.testing import cut_partial

ID = "step0/mb0/experts.3/input/0"
INDEX = f"step0/mb0/experts/input/{INDEX_SLOT}"

NUM_POSITIONS = 24
FULL = np.random.default_rng(0).permutation(NUM_POSITIONS * 4) + 1.0
FULL = FULL.reshape(NUM_POSITIONS, 4).astype(np.float32)

Held = Mapping[int, Sequence[int]]
"""The positions of a rank's rows by coordinate along dp; -1 is padding."""


def routed(
    held: Held,
    sizes: Mapping[str, int],
    columns: str = "h",
    *,
    scale: float = 1.0,
    **fields,
) -> MemoryTrace:
    """A trace in which every rank recorded the positions of its own rows."""
    base = memory_trace({ID: Tensor(full=FULL)}, sizes, **fields)
    shards, numbers = [], []
    arrays: dict[tuple[int, str], np.ndarray] = {}
    for info in base.info.ranks:
        mesh = info.mesh(MESH)
        positions = np.array(held[mesh.coords["dp"]], dtype=np.int64)
        local = np.where((positions >= 0)[:, None], FULL[positions], np.nan)
        plain = parse_dims(f"x {columns}").lower(local.shape, mesh)
        array = cut_partial(local.astype(np.float32), plain, mesh)
        index = RowIndex(dim=0, id=INDEX, parts=(IndexPart(rank=info.rank),))
        layout = parse_dims(f"x[@index] {columns}").lower_indexed(
            array.shape, mesh, index=index, num_indices=NUM_POSITIONS
        )
        shard = shard_of(ID, info.rank, layout, "float32")
        shards.append(replace(shard, scale=scale))
        numbers.append(shard_of(INDEX, info.rank, index_layout(positions), "int64"))
        arrays[info.rank, ID] = array * np.float32(scale)
        arrays[info.rank, INDEX] = positions
    return with_records(base, {ID: shards, INDEX: numbers}, arrays)


def shard_of(text: str, rank: int, layout: ShardLayout, dtype: str) -> ShardRecord:
    id_ = parse_tensor_id(text)
    return ShardRecord(id=id_, rank=rank, sequence=0, dtype=dtype, layout=layout)


def index_layout(numbers: np.ndarray) -> ShardLayout:
    return ShardLayout(
        global_shape=(8 * NUM_POSITIONS,),
        local_shape=numbers.shape,
        blocks=(),
        mesh=MESH,
    )


def with_records(base: MemoryTrace, shards, arrays) -> MemoryTrace:
    tensors = {
        parse_tensor_id(text): TensorRecord(id=parse_tensor_id(text), shards=tuple(own))
        for text, own in shards.items()
    }
    info = TraceInfo(ranks=base.info.ranks, tensors=tensors, skipped={})
    return MemoryTrace(info, arrays)


def sent(
    numbers: Mapping[int, Sequence[int]],
    order: Sequence[int],
    num_rows: int | None = None,
) -> MemoryTrace:
    """Rank 0 holds the rows that the ranks sent to expert 3, in the order given."""
    base = memory_trace({ID: Tensor(full=FULL)}, {"dp": len(numbers), "tp": 1})
    start = 3 * NUM_POSITIONS
    chosen = (start, start + NUM_POSITIONS)
    index = RowIndex(
        dim=0,
        id=INDEX,
        parts=tuple(IndexPart(rank=rank, numbers=chosen) for rank in order),
        origin=start,
    )
    rows = [n - start for r in order for n in numbers[r] if chosen[0] <= n < chosen[1]]
    array = FULL[rows][:num_rows]
    layout = parse_dims("x[@index] h").lower_indexed(
        array.shape,
        base.info.ranks[0].mesh(MESH),
        index=index,
        num_indices=NUM_POSITIONS,
    )
    arrays: dict[tuple[int, str], np.ndarray] = {(0, ID): array}
    index_shards = []
    for rank, own in numbers.items():
        arrays[rank, INDEX] = np.array(own, dtype=np.int64)
        layout_of_own = index_layout(arrays[rank, INDEX])
        index_shards.append(shard_of(INDEX, rank, layout_of_own, "int64"))
    shards = {ID: [shard_of(ID, 0, layout, "float32")], INDEX: index_shards}
    return with_records(base, shards, arrays)
