"""A checkpoint as a trace: its parameters as ``param`` of step 0, read on demand."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ttrace.checkpoints.names import EntryName, name_entries, natural_order
from ttrace.errors import CheckpointError, UsageError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.dtypes import DTYPES
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Block, Mesh, Region, ShardLayout
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import (
    CHECKPOINT,
    RankInfo,
    ShardRecord,
    SkippedRecord,
    TensorRecord,
    TraceInfo,
)
from ttrace.store.array_cache import KEPT_BYTES, ArrayCache
from ttrace.store.remote import RemoteFolder

_MESH = "parts"
_AXIS = "part"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredBlock:
    """One block of a tensor, as the checkpoint stores it.

    Attributes:
        start: First index in the tensor, by dim.
        extent: Number of indices, by dim.
        read: Gives its array, ``extent`` in the dtype of the tensor.
        is_view: It is no work: a view of a mapped file.
    """

    start: tuple[int, ...]
    extent: tuple[int, ...]
    read: Callable[[], np.ndarray]
    is_view: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
        path: The keys that lead to it.
        shape: Shape of the whole tensor.
        dtype: Name of its dtype; of any that there are.
        blocks: What it is stored as; disjoint, they cover it.
        problem: Why it cannot be read; None if it can.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...] = ()
    dtype: str = ""
    blocks: tuple[StoredBlock, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What a reader of a format found.

    Attributes:
        path: File or folder.
        format: Name of the format, for reports.
        entries: Everything that it holds.
        versions: Versions of the packages that read it, by name.
    """

    path: Path
    format: str
    entries: Sequence[Entry]
    versions: Mapping[str, str] = field(default_factory=dict)


class CheckpointTrace:
    """A checkpoint, open for reading like a trace: a ``TraceSource``.

    Its ranks are blocks: rank ``i`` holds the ``i``-th block of every tensor that was
    stored in so many.

    Attributes:
        path: File or folder of the checkpoint.
        info: What it holds.
        incomplete: Always empty.
    """

    def __init__(self, checkpoint: Checkpoint, *, remote: RemoteFolder | None = None):
        """Names the entries.

        Args:
            checkpoint: What was found.
            remote: What its files stand for, where they lie behind an address.

        Raises:
            CheckpointError: Nothing in it is a parameter that can be compared.
        """
        self.path = checkpoint.path
        self._remote = remote
        self.incomplete: tuple[str, ...] = ()
        self._stored: dict[tuple[int, TensorId], StoredBlock] = {}
        self._layouts: dict[object, ShardLayout] = {}  # many tensors share one
        self._kept: ArrayCache[tuple[int, TensorId]] = ArrayCache(KEPT_BYTES)
        tensors: dict[TensorId, TensorRecord] = {}
        skipped: dict[TensorId, SkippedRecord] = {}
        names = name_entries([entry.path for entry in checkpoint.entries])
        for sequence, entry in enumerate(_in_order(checkpoint.entries, names)):
            name = names[entry.path]
            id_ = TensorId(step=0, module=name.module, kind=name.kind, slot=name.slot)
            reason = name.reason or entry.problem or _not_stored_reason(entry)
            if reason is None:
                tensors[id_] = self._record(id_, entry, sequence)
            elif id_ not in tensors:
                skipped[id_] = SkippedRecord(
                    id=id_, rank=0, sequence=sequence, reason=reason
                )
        if not any(id_.kind is Kind.PARAM for id_ in tensors):
            raise CheckpointError(
                "there are no parameters in the checkpoint",
                where=checkpoint.path,
                expected="tensors of a model",
                got=_listed(skipped.values()),
                remedy="give the checkpoint of a model",
            )
        self.info: TraceInfo = TraceInfo(
            ranks=_ranks(
                checkpoint, max(len(t.shards) for t in tensors.values()), tensors
            ),
            tensors=tensors,
            skipped=skipped,
        )

    @property
    def name(self) -> str:
        """Its path, or its address."""
        return str(self.path) if self._remote is None else self._remote.address

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a block.

        Returns:
            A read-only array of the record's dtype and local shape; a view of the file
            where the format allows it.

        Raises:
            UsageError: The shard is not of this checkpoint.
            CheckpointError: The file does not hold what it should.
        """
        key = (shard.rank, shard.id)
        stored = self._stored.get(key)
        held = None if stored is None else self.info.tensors[shard.id].shards
        if stored is None or held is None or shard != held[shard.rank]:
            raise UsageError(
                "a shard was looked up in a checkpoint that does not hold it",
                where=self.path,
                got=f"{shard.id}, part {shard.rank}",
                remedy="take the shards from the info of the same trace",
            )
        if stored.is_view:
            return self._read(shard, stored)
        return self._kept.get(key, lambda: self._read(shard, stored))

    def _read(self, shard: ShardRecord, stored: StoredBlock) -> np.ndarray:
        array = stored.read()
        dtype = DTYPES[shard.dtype].numpy
        if array.shape != stored.extent or array.dtype != dtype:
            raise CheckpointError(
                "a checkpoint holds another array than it says",
                where=f"{shard.id}, part {shard.rank}, {self.path}",
                expected=f"{shard.dtype} {list(stored.extent)}",
                got=f"{array.dtype} {list(array.shape)}",
                remedy="write the checkpoint again",
            )
        array = array.view()
        array.flags.writeable = False
        return array

    def _record(self, id_: TensorId, entry: Entry, sequence: int) -> TensorRecord:
        shards = []
        for rank, stored in enumerate(entry.blocks):
            self._stored[rank, id_] = stored
            place = (entry.shape, stored.start, stored.extent)
            layout = self._layouts.get(place)
            if layout is None:
                layout = self._layouts[place] = _layout(*place)
            shards.append(
                ShardRecord(
                    id=id_,
                    rank=rank,
                    sequence=sequence,
                    dtype=entry.dtype,
                    layout=layout,
                )
            )
        return TensorRecord(id=id_, shards=tuple(shards))


def _layout(
    shape: tuple[int, ...], start: tuple[int, ...], extent: tuple[int, ...]
) -> ShardLayout:
    region = Region(start=start, extent=extent)
    return ShardLayout(
        global_shape=shape,
        local_shape=extent,
        blocks=(Block(region=region, local_start=(0,) * len(shape)),),
        mesh=_MESH,
    )


def whole_block(
    shape: tuple[int, ...], read: Callable[[], np.ndarray], *, is_view: bool = False
) -> StoredBlock:
    """The only block of a tensor that is stored in one piece."""
    start = (0,) * len(shape)
    return StoredBlock(start=start, extent=shape, read=read, is_view=is_view)


def _in_order(
    entries: Iterable[Entry], names: Mapping[tuple[str, ...], EntryName]
) -> list[Entry]:
    """Parameters first, as in a step; layers by number."""

    def position(entry: Entry) -> tuple:
        is_state = names[entry.path].kind is not Kind.PARAM
        return is_state, natural_order(entry.path)

    return sorted(entries, key=position)


def _not_stored_reason(entry: Entry) -> str | None:
    if entry.dtype not in DTYPES:
        return f"dtype {entry.dtype} cannot be compared"
    return None


def _ranks(
    checkpoint: Checkpoint, count: int, tensors: Iterable[TensorId]
) -> tuple[RankInfo, ...]:
    kinds = frozenset(id_.kind for id_ in tensors)
    run_id = uuid.uuid5(uuid.NAMESPACE_URL, checkpoint.path.resolve().as_uri()).hex
    return tuple(
        RankInfo(
            run_id=run_id,
            rank=rank,
            world_size=count,
            recorded_ranks=tuple(range(count)),
            framework=CHECKPOINT,
            versions=checkpoint.versions,
            meshes=(Mesh(name=_MESH, sizes={_AXIS: count}, coords={_AXIS: rank}),),
            settings={"checkpoint_format": checkpoint.format},
            capture=CaptureFilter(kinds=kinds, steps=frozenset({0})).to_json(),
        )
        for rank in range(count)
    )


def _listed(skipped: Iterable[SkippedRecord], most: int = 4) -> str:
    reasons = [f"{record.id}: {record.reason}" for record in skipped]
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return ("; ".join(reasons[:most]) or "nothing at all") + more
