"""The files of one rank, as they are written; no threads, no queue."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash

from ttrace.errors import TraceError, TraceExistsError
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import SCHEMA_VERSION, RankInfo, ShardRecord, SkippedRecord
from ttrace.store.completion import Completion, encode_completion
from ttrace.store.files import (
    COMPLETE,
    FAILURE,
    INDEX,
    MANIFEST,
    encode_document,
    hash_bytes,
    rank_folder_name,
    replacing,
    segment_file_name,
    sync,
    writing_error,
)
from ttrace.store.index import IndexGroup, StoredShard, encode_group
from ttrace.store.ranks import read_manifest
from ttrace.store.repeats import Place, Repeats
from ttrace.store.segments import plan_segment, stored_bytes, write_segment

_made_here: set[tuple[int, Path]] = set()
"""Folders that this process made, with its id, as a forked process inherits them."""


class RankFolder:
    """One rank's folder of a trace being written.

    Attributes:
        path: The folder; nothing outside it is written.
    """

    def __init__(self, trace: Path, info: RankInfo):
        """Creates the folder, with the manifest and an empty index in it.

        Raises:
            TraceExistsError: The folder is there already.
            StorageFullError: It cannot be written.
        """
        self.path = trace / rank_folder_name(info.rank)
        self._rank = info.rank
        manifest = encode_document({"schema_version": SCHEMA_VERSION, **info.to_json()})
        self._manifest_hash = hash_bytes(manifest)
        self._index_hash = xxhash.xxh3_64()
        self._repeats = Repeats(self.path)
        self._num_records = self._num_skipped = self._num_segments = 0
        try:
            self.path.mkdir(parents=True)
            with replacing(self.path / MANIFEST) as file:
                file.write(manifest)
            (self.path / INDEX).touch()
        except (FileExistsError, NotADirectoryError):
            raise _exists(self.path, info) from None
        except OSError as error:
            raise writing_error(error, self.path) from error
        _made_here.add((os.getpid(), self.path.absolute()))

    def append(
        self,
        records: Sequence[ShardRecord],
        skipped: Sequence[SkippedRecord],
        arrays: dict[TensorId, np.ndarray],
        release: Callable[[int], None],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Writes a segment, then the lines of the index that name it.

        Args:
            records: Shards, in order of capture.
            skipped: Skipped tensors, in order of capture.
            arrays: Their values; emptied, so that each is freed once it is written.
            release: Called with the bytes of each array that was dropped.
            settings: What the rank says of itself.

        Raises:
            OSError: The disk does not take it; the index names nothing of it then.
        """
        found = self._repeats.sort(arrays, release)
        places, segment = dict(found.written), None
        if arrays:
            plan = plan_segment(
                segment_file_name(self._num_segments),
                [record for record in records if record.id in arrays],
            )
            segment = plan.segment
            write_segment(self.path, plan, _taken(plan.offsets, arrays, release))
            for id_, offset in plan.offsets.items():
                places[id_] = Place(segment=segment.name, offset=offset)
        places.update({id_: places[first] for id_, first in found.same.items()})
        shards = tuple(
            StoredShard(
                record=record,
                segment=places[record.id].segment,
                offset=places[record.id].offset,
                nbytes=stored_bytes(record),
                hash=found.hashes[record.id],
            )
            for record in records
        )
        lines = encode_group(
            IndexGroup(
                segment=segment,
                shards=shards,
                skipped=tuple(skipped),
                settings=settings or {},
            )
        )
        with open(self.path / INDEX, "ab") as file:
            file.write(lines)
        self._index_hash.update(lines)
        for stored in shards:
            self._repeats.note(stored.hash, stored.nbytes, places[stored.record.id])
        self._num_records += len(shards)
        self._num_skipped += len(skipped)
        self._num_segments += segment is not None

    def complete(self) -> None:
        """Marks the rank complete, after all else has reached the disk.

        Raises:
            OSError: The disk does not take it; the rank stays incomplete.
        """
        completion = Completion(
            rank=self._rank,
            num_records=self._num_records,
            num_skipped=self._num_skipped,
            num_segments=self._num_segments,
            manifest_xxh3_64=self._manifest_hash,
            index_xxh3_64=self._index_hash.hexdigest(),
        )
        sync(self.path / INDEX)
        sync(self.path)
        with replacing(self.path / COMPLETE) as file:
            file.write(encode_completion(completion))
        sync(self.path)

    def note_failure(self, failure: TraceError) -> None:
        """Leaves the reason why the rank stays incomplete, if the disk still can."""
        with contextlib.suppress(OSError), replacing(self.path / FAILURE) as file:
            file.write(encode_document({"reason": failure.what}))


def _taken(
    ids: Iterable[TensorId],
    arrays: dict[TensorId, np.ndarray],
    release: Callable[[int], None],
) -> Iterator[np.ndarray]:
    """Takes arrays out one by one; each is dropped before the next is asked for."""
    for id_ in ids:
        nbytes = arrays[id_].nbytes
        yield arrays.pop(id_)
        release(nbytes)


def _exists(path: Path, info: RankInfo) -> TraceExistsError:
    """Why a rank's folder is there before the rank has written anything."""
    if (os.getpid(), path.absolute()) in _made_here:
        has_ended = (path / COMPLETE).exists() or (path / FAILURE).exists()
        return TraceExistsError(
            "a trace is entered a second time in one process"
            if has_ended
            else "a trace is entered inside of another one",
            where=path,
            expected="one 'with trace(...)' in a run, which has one trace",
            remedy="put one 'with trace(...)' around all training steps that are to be "
            "recorded, of one model that holds all others",
        )
    try:
        run_id = read_manifest(path).run_id
    except TraceError:
        return TraceExistsError(
            "there is something where a rank's trace should go",
            where=path,
            remedy="remove it, or record elsewhere with --out",
        )
    if run_id == info.run_id:
        return TraceExistsError(
            f"two processes of the run record as rank {info.rank}",
            where=path,
            expected="another rank in every process",
            remedy="start the processes as torchrun does, with RANK and WORLD_SIZE in "
            "their environment, or initialize torch.distributed before the trace is "
            "entered; record a script that starts others with the 'with trace(...)' in "
            "one of them",
        )
    return TraceExistsError(
        "another run has recorded into this folder",
        where=path,
        expected=f"run {info.run_id}",
        got=f"run {run_id}",
        remedy="record each run into a folder of its own, with --out",
    )
