"""What a frontend hands its records to."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ttrace.ir.trace import ShardRecord, SkippedRecord


class TraceSink(Protocol):
    """Where records go; ``ttrace.store.writer.TraceWriter`` is one."""

    @property
    def failure(self) -> Exception | None:
        """Why recording stopped, or None while all is well."""
        ...

    def add(self, record: ShardRecord, array: np.ndarray) -> None:
        """Takes a shard; the array does not change any more."""
        ...

    def skip(self, record: SkippedRecord) -> None:
        """Takes the note that a tensor was seen and not recorded."""
        ...

    def state(self, settings: Mapping[str, str]) -> None:
        """Takes settings that only showed in the run, beside those of its start."""
        ...

    def close(self) -> None:
        """Marks the rank complete."""
        ...

    def abort(self, reason: str) -> None:
        """Leaves the rank incomplete."""
        ...
