"""Opens a trace: what it holds, whether it is whole, and its arrays on demand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ttrace.errors import CorruptTraceError, IncompleteTraceError, UsageError
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.store.files import RECORD_AGAIN, rank_folder_name
from ttrace.store.index import StoredShard
from ttrace.store.mapped_files import MappedFiles, hash_of_mapped
from ttrace.store.merging import merge_ranks
from ttrace.store.ranks import RankPart, read_manifest, read_rank
from ttrace.store.remote import RemoteFolder, addressed, here
from ttrace.store.run_folder import check_same_run, find_ranks, missing_ranks
from ttrace.store.segments import check_segment_size, map_segment


class Trace:
    """A trace on disk, open for reading: a ``TraceSource``.

    ``load`` may be called from any thread.

    Attributes:
        path: Its folder.
        info: Everything it holds but the arrays.
        incomplete: What is missing, in words; empty unless it was opened with
            ``allow_incomplete``.
    """

    def __init__(
        self,
        path: Path,
        parts: Sequence[RankPart],
        *,
        incomplete: Sequence[str] = (),
        verify: bool = True,
        remote: RemoteFolder | None = None,
    ):
        """Puts the parts of the ranks together; see ``open_trace``."""
        self.path = path
        self._remote = remote
        self.info: TraceInfo = merge_ranks([part.records for part in parts])
        self.incomplete = tuple(incomplete)
        self._verify = verify
        self._verified: set[int] = set()  # by identity: there are very many
        self._parts = {part.info.rank: part for part in parts}
        self._stored: Mapping[int, Mapping[TensorId, StoredShard]] = {
            part.info.rank: {stored.record.id: stored for stored in part.shards}
            for part in parts
        }
        self._segments = {
            (part.info.rank, name): (str(part.folder / name), segment)
            for part in parts
            for name, segment in part.segments.items()
        }
        self._mapped: MappedFiles[tuple[int, str]] = MappedFiles()

    @property
    def name(self) -> str:
        """Its path, or its address."""
        return str(self.path) if self._remote is None else self._remote.address

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a shard, as a view of the mapped file.

        The first load of a shard reads all of it to check its hash, unless the
        trace was opened without ``verify``; nothing is copied.

        Returns:
            A read-only array of the record's dtype and local shape.

        Raises:
            UsageError: The shard is not of this trace.
            CorruptTraceError: Its bytes are not those that were written.
            TraceError: The system does not let us read them.
        """
        stored = self._stored.get(shard.rank, {}).get(shard.id)
        if stored is None or (stored.record is not shard and stored.record != shard):
            raise UsageError(
                "a shard was looked up in a trace that does not hold it",
                where=self.path,
                got=f"{shard.id}, rank {shard.rank}",
                remedy="take the shards from the info of the same trace",
            )
        content = self._content(shard.rank, stored)
        data = content[stored.offset : stored.offset + stored.nbytes]
        if self._verify and id(stored) not in self._verified:
            found = hash_of_mapped(data)
            if found != stored.hash:
                raise CorruptTraceError(
                    "the bytes of a tensor are not those that were written",
                    where=f"{shard.id}, rank {shard.rank}, "
                    f"{self._parts[shard.rank].folder / stored.segment}",
                    expected=f"xxh3_64 {stored.hash}",
                    got=f"xxh3_64 {found}",
                    remedy=RECORD_AGAIN,
                )
            self._verified.add(id(stored))
        dtype = dtype_named(shard.dtype).numpy
        return data.view(dtype).reshape(shard.layout.local_shape)

    def _content(self, rank: int, stored: StoredShard) -> np.ndarray:
        """All bytes of the segment that holds a shard, which is about to be read."""
        key = (rank, stored.segment)
        path, segment = self._segments[key]
        if id(stored) not in self._verified:
            check_segment_size(path, segment)  # a map of what is gone ends the process
            if self._remote is not None:
                end = stored.offset + stored.nbytes
                self._remote.fetch(path, 0, segment.header_bytes)
                self._remote.fetch(path, stored.offset, end)
        return self._mapped.get(key, lambda: map_segment(path, segment), stored.nbytes)


def open_trace(
    path: str | Path, *, allow_incomplete: bool = False, verify: bool = True
) -> Trace:
    """Opens a trace.

    Manifests and indexes are read and checked now, segments when they are needed.

    Args:
        path: Folder of the trace, or an address such as ``s3://bucket/folder``.
        allow_incomplete: Read what is safely there where ranks are missing, still
            being written or cut off, and say so in ``Trace.incomplete``.
        verify: Check the hash of each tensor when it is first loaded.

    Raises:
        TraceNotFoundError: There is no trace.
        IncompleteTraceError: It is still being written, was cut off, or lacks a rank.
        CorruptTraceError: Its bytes are not those that were written.
        SchemaVersionError: It was written in another format.
        LayoutError: Its ranks disagree about the shape of a tensor.
        TraceError: It mixes runs, has a rank twice, or cannot be read.
    """
    folder, remote = here(path)
    with addressed(remote):
        return open_folder(
            folder, allow_incomplete=allow_incomplete, verify=verify, remote=remote
        )


def open_rank(path: Path, rank: int) -> Trace:
    """Opens what a complete trace holds of one rank; reads nothing of the others.

    Args:
        path: Folder of the trace.
        rank: Global rank.

    Raises:
        TraceError: The rank has no whole part in it, or it cannot be read.
    """
    folder = path / rank_folder_name(rank)
    part = read_rank(folder, read_manifest(folder))
    if part.missing:
        raise IncompleteTraceError(
            "what a trace holds of a rank is incomplete",
            where=folder,
            got=_shortened(part.missing),
            remedy=RECORD_AGAIN,
        )
    return Trace(path, [part])


def open_folder(
    path: Path,
    *,
    allow_incomplete: bool = False,
    verify: bool = True,
    remote: RemoteFolder | None = None,
) -> Trace:
    """The same of a folder of this machine.

    Args:
        path: Folder of the trace.
        allow_incomplete: As for ``open_trace``.
        verify: As for ``open_trace``.
        remote: What the folder stands for, where it is not all here.

    Raises:
        TraceError: As for ``open_trace``.
    """
    infos, missing = find_ranks(path)
    check_same_run(infos)
    missing += missing_ranks(infos)
    parts = [read_rank(folder, info) for folder, info in infos.items()]
    missing += [reason for part in parts for reason in part.missing]
    if missing and not (allow_incomplete and parts):
        raise IncompleteTraceError(
            "the trace is incomplete",
            where=path if remote is None else remote.address,
            expected="a complete.json from every recorded rank",
            got=_shortened(missing),
            remedy="wait until the run has ended, or mend what ended it and record it "
            "again; 'ttrace show' lists what is there",
        )
    return Trace(path, parts, incomplete=missing, verify=verify, remote=remote)


def _shortened(reasons: Sequence[str], most: int = 8) -> str:
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more
