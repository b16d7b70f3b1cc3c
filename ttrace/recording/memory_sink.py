"""A sink that keeps what a frontend records in memory: for tests and notebooks."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ttrace.errors import TensorIdError
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord
from ttrace.store.merging import RankRecords


class MemorySink:
    """Keeps the records of one rank by the text of their tensor ids.

    Args:
        keeps_arrays: Keep the arrays too, not only count their bytes.

    Attributes:
        records: What was recorded, in order.
        arrays: The arrays of the records.
        settings: What the rank said of itself meanwhile.
        skips: What was seen and not recorded, in order; the first reason counts.
        num_bytes: Total size of the arrays.
        ending: None while open, ``"closed"``, or the reason of an abort.
        failure: Set it to an exception to simulate a full disk.
    """

    def __init__(self, *, keeps_arrays: bool = True):
        self.records: dict[str, ShardRecord] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.skips: dict[str, SkippedRecord] = {}
        self.settings: dict[str, str] = {}
        self.num_bytes = 0
        self.ending: str | None = None
        self.failure: Exception | None = None
        self._keeps_arrays = keeps_arrays

    @property
    def skipped(self) -> dict[str, str]:
        """The reason of each skip, by id."""
        return {text: record.reason for text, record in self.skips.items()}

    def rank_records(self, info: RankInfo) -> RankRecords:
        """What it holds, as what that rank recorded (see ``MemoryTrace.of_ranks``)."""
        return RankRecords(
            info=replace(info, settings={**info.settings, **self.settings}),
            shards=tuple(self.records.values()),
            skipped=tuple(self.skips.values()),
        )

    def state(self, settings: Mapping[str, str]) -> None:
        """Takes settings."""
        self.settings |= settings

    def add(self, record: ShardRecord, array: np.ndarray) -> None:
        """Takes a shard.

        Raises:
            TensorIdError: The id was recorded or skipped before.
        """
        text = str(record.id)
        if text in self.records or text in self.skips:
            raise TensorIdError(
                "a tensor id came twice",
                where=text,
                remedy="tell the two apart by slot or call number",
            )
        assert array.shape == record.layout.local_shape
        self.records[text] = record
        self.num_bytes += array.nbytes
        if self._keeps_arrays:
            self.arrays[text] = array

    def skip(self, record: SkippedRecord) -> None:
        """Takes the note that a tensor was not recorded; the first reason counts."""
        self.skips.setdefault(str(record.id), record)

    def close(self) -> None:
        """Ends well."""
        self.ending = "closed"

    def abort(self, reason: str) -> None:
        """Ends for a reason."""
        self.ending = reason
