"""Records one rank's tensors, in the background of the training step."""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from ttrace.errors import (
    DtypeError,
    LayoutError,
    TensorIdError,
    TraceError,
    UsageError,
)
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord
from ttrace.store.batch_queue import BatchQueue
from ttrace.store.files import writing_error
from ttrace.store.rank_folder import RankFolder

_RECORD_BYTES = 1024
"""About what a record costs in memory and in a header, besides its array."""

_Settings = dict[str, str]

_Entry = (
    tuple[ShardRecord, np.ndarray] | tuple[SkippedRecord, None] | tuple[_Settings, None]
)


class TraceWriter:
    """Writes one rank's part of a trace.

    Records are queued and written by a background thread, segment by segment; a
    segment reaches the disk before the index names it. The rank is complete once
    ``close`` has returned without a failure, and never before.

    Where the disk fails, capture stops and training goes on: ``failure`` says why,
    later records are ignored, and the rank stays incomplete.

    ``add`` and ``skip`` may be called from any thread. As a context manager, the
    writer closes at the end, or aborts where the block raises.

    Attributes:
        folder: The rank's own folder; nothing outside it is written.
    """

    def __init__(
        self,
        path: str | Path,
        info: RankInfo,
        *,
        segment_bytes: int = 64 << 20,
        queue_bytes: int = 256 << 20,
    ):
        """Creates the rank's folder, with the manifest in it.

        Args:
            path: The trace, shared by all ranks; created where it is missing.
            info: What this rank says about the run.
            segment_bytes: A segment is written, and synced once, when this much has
                come; until then its records are in memory only.
            queue_bytes: Bound on the arrays that wait to be written; ``add`` waits
                beyond it. A single larger array is let through alone.

        Raises:
            TraceExistsError: This rank has a folder there already.
            StorageFullError: The folder or the manifest cannot be written.
        """
        self._files = RankFolder(Path(path), info)
        self.folder = self._files.path
        self._rank = info.rank
        self._failure: TraceError | None = None
        self._ended = False
        self._seen: dict[TensorId, type] = {}
        self._seen_lock = threading.Lock()
        self._queue: BatchQueue[_Entry] = BatchQueue(
            batch_bytes=segment_bytes, max_bytes=queue_bytes
        )
        self._thread = threading.Thread(
            target=self._write_queued, name=f"ttrace-writer-{info.rank}", daemon=True
        )
        self._thread.start()

    @property
    def failure(self) -> TraceError | None:
        """Why capture stopped, or None while all is well."""
        return self._failure

    def add(self, record: ShardRecord, array: np.ndarray) -> None:
        """Queues a shard; waits while the queue is full.

        Args:
            record: What the array is.
            array: Its values, of any strides. The caller must not change it any more.

        Raises:
            LayoutError: The array has another shape than the layout says.
            DtypeError: It has another dtype than the record says.
            TensorIdError: This rank recorded or skipped the same id before.
            UsageError: The record is of another rank, or the writer was closed.
        """
        if self._failure is None:
            _check_array(record, array)
            self._register(record)
            self._put((record, array))

    def state(self, settings: Mapping[str, str]) -> None:
        """Queues settings that only showed in the run, beside those of its start.

        Raises:
            UsageError: The writer was closed.
        """
        if self._failure is None:
            self._put((dict(settings), None))

    def skip(self, record: SkippedRecord) -> None:
        """Queues the note that a tensor was seen and not recorded.

        Of several notes on one id the first counts.

        Raises:
            TensorIdError: This rank recorded the same id before.
            UsageError: The record is of another rank, or the writer was closed.
        """
        if self._failure is None and self._register(record):
            self._put((record, None))

    def close(self) -> None:
        """Writes what is queued and marks the rank complete.

        Does not raise where the disk fails; see ``failure``. Closing again does
        nothing.
        """
        if self._end() and self._failure is None:
            try:
                self._files.complete()
            except OSError as error:
                self._fail(writing_error(error, self.folder))

    def abort(self, reason: str) -> None:
        """Writes what is queued and leaves the rank incomplete.

        Args:
            reason: Why, in a few words; readers of the trace are shown them.
        """
        if self._end() and self._failure is None:
            self._fail(
                TraceError(reason, where=self.folder, remedy="record the run again")
            )

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            first_line = str(error).partition("\n")[0]
            self.abort(f"the run ended with {kind.__name__}: {first_line}")

    def _register(self, record: ShardRecord | SkippedRecord) -> bool:
        """Notes an id; False where it was skipped before and is skipped again."""
        if record.rank != self._rank:
            raise UsageError(
                "a record of one rank was given to the writer of another",
                where=record.id,
                expected=f"rank {self._rank}",
                got=f"rank {record.rank}",
                remedy="give each rank a writer of its own",
            )
        with self._seen_lock:
            before = self._seen.get(record.id)
            self._seen.setdefault(record.id, type(record))
        if before is None:
            return True
        if before is SkippedRecord and isinstance(record, SkippedRecord):
            return False
        past = {ShardRecord: "recorded", SkippedRecord: "skipped"}
        raise TensorIdError(
            "a rank captured one tensor id twice",
            where=f"{record.id}, rank {self._rank}",
            expected="every id at most once per rank",
            got=f"{past[before]} before, now {past[type(record)]}",
            remedy="tell the two apart in the frontend, by slot or call number",
        )

    def _put(self, entry: _Entry) -> None:
        if not self._queue.put(entry, _entry_bytes(entry)):
            what = entry[0] if isinstance(entry[0], dict) else entry[0].id
            raise UsageError(
                "a tensor was captured after its trace was closed",
                where=f"{what}, rank {self._rank}",
                remedy="capture inside the 'with' block of the trace only",
            )

    def _end(self) -> bool:
        """Waits until the thread has written all; False where it was ended before."""
        self._queue.close()
        self._thread.join()
        first, self._ended = not self._ended, True
        return first

    def _fail(self, failure: TraceError) -> None:
        self._failure = failure
        self._queue.discard()
        self._files.note_failure(failure)

    # What follows runs in the background thread.

    def _write_queued(self) -> None:
        try:
            while (batch := self._queue.take()) is not None:
                self._write(batch)
        except OSError as error:
            self._fail(writing_error(error, self.folder))
        except Exception as error:  # training goes on, whatever happens to capture
            self._fail(
                TraceError(
                    f"capture stopped: {type(error).__name__}: {error}",
                    where=self.folder,
                    remedy="record again; if it happens again, please report it",
                )
            )

    def _write(self, batch: list[_Entry]) -> None:
        """Writes a batch; empties it, so that each array is freed once written."""
        records = [entry[0] for entry in batch if isinstance(entry[0], ShardRecord)]
        skipped = [entry[0] for entry in batch if isinstance(entry[0], SkippedRecord)]
        settings = {
            name: value
            for entry in batch
            if isinstance(entry[0], dict)
            for name, value in entry[0].items()
        }
        arrays = {
            record.id: array
            for record, array in batch
            if array is not None and isinstance(record, ShardRecord)
        }
        num_bare = len(batch) - len(records)
        batch.clear()
        self._queue.release(_RECORD_BYTES * num_bare)

        def release(nbytes: int) -> None:
            self._queue.release(nbytes + _RECORD_BYTES)

        self._files.append(records, skipped, arrays, release, settings)


def _entry_bytes(entry: _Entry) -> int:
    _, array = entry
    return _RECORD_BYTES + (0 if array is None else array.nbytes)


def _check_array(record: ShardRecord, array: np.ndarray) -> None:
    if array.shape != record.layout.local_shape:
        raise LayoutError(
            "an array has another shape than its layout says",
            where=f"{record.id}, rank {record.rank}",
            expected=f"local shape {list(record.layout.local_shape)}",
            got=list(array.shape),
            remedy="record the array that the layout was made for",
        )
    if array.dtype != dtype_named(record.dtype).numpy:
        raise DtypeError(
            "an array has another dtype than its record says",
            where=f"{record.id}, rank {record.rank}",
            expected=record.dtype,
            got=array.dtype,
            remedy="state the dtype of the array, or convert it",
        )
