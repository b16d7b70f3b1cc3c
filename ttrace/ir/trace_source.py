"""What a comparison reads a run from; the tensors themselves lie elsewhere."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ttrace.ir.trace import ShardRecord, TraceInfo


class TraceSource(Protocol):
    """A run that can be compared: what it holds, and its arrays on demand.

    A trace on disk is one, a checkpoint, another source under the names of a map, and
    arrays in memory. Sources share no base class: what has these members is one.
    """

    @property
    def name(self) -> str:
        """What reports and messages call it, e.g. the path of its folder."""
        ...

    @property
    def info(self) -> TraceInfo:
        """Everything it holds but the arrays; always the same."""
        ...

    @property
    def incomplete(self) -> Sequence[str]:
        """What is missing of it, in words; empty if it is whole."""
        ...

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a shard; may be called from any thread, and again.

        Args:
            shard: Out of ``info``.

        Returns:
            An array of the record's dtype and local shape, which must not be written
            to. Cheap where it is a view; a caller need not keep it.

        Raises:
            UsageError: The source does not hold the shard.
            TraceError: Its values cannot be read, or are not those that were written.
            CheckpointError: The same of a checkpoint.
        """
        ...
