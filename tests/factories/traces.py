"""Traces made from full tensors: in memory (quick) or on disk (the real store)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Mesh, ShardLayout, whole
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.ir.trace import (
    RankInfo,
    ShardRecord,
    SkippedRecord,
    TensorRecord,
    TraceInfo,
)
from ttrace.recording.sink import TraceSink
from ttrace.store.memory_trace import MemoryTrace as MemoryTrace
from ttrace.store.reader import Trace, open_trace
from ttrace.store.writer import TraceWriter
from ttrace.testing import cut_partial, meshes

MESH = "dense"
CAME_TWICE = "it came twice, and only the first one is recorded"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A full tensor and how the ranks of a run hold it.

    Attributes:
        full: The mathematical values; what is recorded is ``scale`` times as much.
        dims: Dims text, or a function from a rank's mesh to its layout.
        holders: Ranks that record it, or None for all.
        scale: See ``ShardRecord.scale``.
        exact_replicas: See ``ShardRecord.exact_replicas``.
    """

    full: np.ndarray
    dims: str | Callable[[Mesh], ShardLayout] | None = None
    holders: tuple[int, ...] | None = None
    scale: float = 1.0
    exact_replicas: bool = False

    def layout(self, mesh: Mesh) -> ShardLayout:
        if self.dims is None:
            return whole(self.full.shape, mesh.name)
        if isinstance(self.dims, str):
            return parse_dims(self.dims).lower(self.full.shape, mesh)
        return self.dims(mesh)

    def local(self, mesh: Mesh) -> np.ndarray:
        array = cut_partial(self.full, self.layout(mesh), mesh)
        if self.scale == 1:
            return array
        return (array * array.dtype.type(self.scale)).astype(array.dtype)


Tensors = Mapping[str, Tensor | np.ndarray]
"""By text of the id; a bare array is held whole by every rank."""


def rank_infos(
    sizes: Mapping[str, int] | None = None,
    *,
    recorded: Iterable[int] | None = None,
    **fields,
) -> list[RankInfo]:
    """What the recorded ranks of a run on one mesh say about it."""
    ranks = meshes(MESH, sizes or {"dp": 1})
    chosen = tuple(range(len(ranks)) if recorded is None else recorded)
    return [
        RankInfo(
            **{
                "run_id": "run",
                "rank": rank,
                "world_size": len(ranks),
                "recorded_ranks": chosen,
                "framework": "test",
                "meshes": (ranks[rank],),
                **fields,
            }
        )
        for rank in chosen
    ]


def memory_trace(
    tensors: Tensors,
    sizes: Mapping[str, int] | None = None,
    *,
    skipped: Mapping[str, str] | None = None,
    **fields,
) -> MemoryTrace:
    """A trace of these tensors on a mesh of these axis sizes.

    Args:
        tensors: In order of capture.
        sizes: Size of each mesh axis; one rank if None.
        skipped: Reason by text of the id, seen by the first rank after all tensors.
        **fields: ``recorded`` (ranks), and whatever ``RankInfo`` has.
    """
    infos = rank_infos(sizes, **fields)
    shards: dict[TensorId, list[ShardRecord]] = {}
    arrays = {}
    for info in infos:
        for record, array in _captured(tensors, info):
            shards.setdefault(record.id, []).append(record)
            arrays[record.rank, str(record.id)] = array
    order = [
        tensor_id for tensor_id in map(parse_tensor_id, tensors) if tensor_id in shards
    ]
    return MemoryTrace(
        TraceInfo(
            ranks=tuple(infos),
            tensors={
                id_: TensorRecord(id=id_, shards=tuple(shards[id_])) for id_ in order
            },
            skipped={
                record.id: record for record in _skipped(skipped, infos[0], len(order))
            },
        ),
        arrays,
    )


def write_trace(
    path: Path,
    tensors: Tensors,
    sizes: Mapping[str, int] | None = None,
    *,
    skipped: Mapping[str, str] | None = None,
    **fields,
) -> Trace:
    """The same through the writer and the reader."""
    for info in rank_infos(sizes, **fields):
        with TraceWriter(path, info) as writer:
            record_tensors(writer, tensors, info)
            if info.rank == info.recorded_ranks[0]:
                for note in _skipped(skipped, info, len(tensors)):
                    writer.skip(note)
    return open_trace(path)


def record_tensors(writer: TraceSink, tensors: Tensors, info: RankInfo) -> None:
    """Gives one rank's shards to its writer."""
    for record, array in _captured(tensors, info):
        writer.add(record, array)


def _captured(
    tensors: Tensors, info: RankInfo
) -> Iterable[tuple[ShardRecord, np.ndarray]]:
    sequence = 0
    for tensor_id, tensor in tensors.items():
        if isinstance(tensor, np.ndarray):
            tensor = Tensor(full=tensor)
        if tensor.holders is not None and info.rank not in tensor.holders:
            continue
        mesh = info.mesh(MESH)
        array = tensor.local(mesh)
        record = ShardRecord(
            id=parse_tensor_id(tensor_id),
            rank=info.rank,
            sequence=sequence,
            dtype=array.dtype.name,
            layout=tensor.layout(mesh),
            scale=tensor.scale,
            exact_replicas=tensor.exact_replicas,
        )
        yield record, array
        sequence += 1


def _skipped(
    reasons: Mapping[str, str] | None, info: RankInfo, sequence: int
) -> Iterable[SkippedRecord]:
    for offset, (text, reason) in enumerate((reasons or {}).items()):
        yield SkippedRecord(
            id=parse_tensor_id(text),
            rank=info.rank,
            sequence=sequence + offset,
            reason=reason,
            came_twice=reason.startswith(CAME_TWICE),
        )
