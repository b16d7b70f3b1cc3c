"""One part of a trace per device of this process: they are opened, fed and ended."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging

from ttrace.errors import DtypeError, LayoutError, TensorIdError
from ttrace.frontends.jax_parts.record.shards import RankShard
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord
from ttrace.recording.sink import TraceSink


class RankWriters:
    """Hands records to the sinks of this process's ranks; never raises into the step.

    Where a sink fails, recording stops with one warning.

    Args:
        ranks: The ranks of this process that record.
        open_sink: Opens the sink of a rank.

    Attributes:
        num_recorded: Shards recorded so far; skipped tensors do not count.
        is_active: Whether the sinks still take records.
    """

    def __init__(self, ranks: Sequence[int], open_sink: Callable[[int], TraceSink]):
        self.num_recorded = 0
        self.is_active = True
        self._sinks: Mapping[int, TraceSink] = {rank: open_sink(rank) for rank in ranks}
        self._sequence = 0

    def add(
        self,
        id_: TensorId,
        shards: Mapping[int, RankShard],
        *,
        exact_replicas: bool,
    ) -> None:
        """Records what the ranks hold of a tensor.

        Args:
            id_: Its identity.
            shards: By rank, all of one dtype; ranks that do not record are passed
                over.
            exact_replicas: As in ``ShardRecord``.

        Raises:
            DtypeError: A trace cannot hold that dtype; nothing was recorded.
        """
        for rank, shard in shards.items():
            if rank not in self._sinks:
                continue
            record = ShardRecord(
                id=id_,
                rank=rank,
                sequence=self._sequence,
                dtype=shard.array.dtype.name,
                layout=shard.layout,
                exact_replicas=exact_replicas,
            )
            if self._emit(record, shard.array):
                self.num_recorded += 1
        self._sequence += 1

    def skip(self, id_: TensorId, reason: str) -> None:
        """Notes that a tensor was seen and not recorded, on the first rank."""
        for rank in list(self._sinks)[:1]:
            self._emit(
                SkippedRecord(
                    id=id_, rank=rank, sequence=self._sequence, reason=reason
                ),
                None,
            )
        self._sequence += 1

    def close(self) -> None:
        """Completes the ranks."""
        for sink in self._sinks.values():
            sink.close()
        self._warn_of_failure()

    def abort(self, reason: str) -> None:
        """Leaves the ranks incomplete."""
        for sink in self._sinks.values():
            sink.abort(reason)

    def _emit(
        self, record: ShardRecord | SkippedRecord, array: np.ndarray | None
    ) -> bool:
        if not self.is_active:
            return False
        sink = self._sinks[record.rank]
        try:
            if isinstance(record, ShardRecord):
                assert array is not None
                sink.add(record, array)
            else:
                sink.skip(record)
        except TensorIdError as error:
            logging.log_first_n(logging.WARNING, "ttrace: %s", 1, error)
            return False
        except (OSError, DtypeError, LayoutError) as error:
            self._stop(error)
            return False
        if sink.failure is not None:
            self._stop(sink.failure)
        return self.is_active

    def _stop(self, failure: Exception) -> None:
        self.is_active = False
        logging.warning(
            "ttrace: recording stopped, training goes on; the trace stays "
            "incomplete.\n%s",
            failure,
        )

    def _warn_of_failure(self) -> None:
        failures = [sink.failure for sink in self._sinks.values() if sink.failure]
        if failures and self.is_active:
            logging.warning("ttrace: the trace is incomplete.\n%s", failures[0])
