"""The recorders of all devices of this process: what a value has on each goes there."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from ttrace.frontends.jax_parts.record.shards import RankShard
from ttrace.ir.operation import OperationPart, operation_slot
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.rank_recorder import RankRecorder


class RankWriters:
    """Gives each rank of this process its shard; never raises into the step.

    What becomes of a value that cannot be stored, and of a disk that is full, is the
    recorders' to say (``ttrace.recording.rank_recorder``).

    Args:
        recorders: Of the ranks of this process that record, lowest first.
    """

    def __init__(self, recorders: Iterable[RankRecorder]):
        self._recorders = {recorder.rank: recorder for recorder in recorders}

    def add(
        self, id_: TensorId, shards: Mapping[int, RankShard], *, scale: float = 1.0
    ) -> None:
        """Records what the ranks hold of a tensor.

        Args:
            id_: Its identity.
            shards: By rank; ranks that do not record are passed over.
            scale: Known factor over the mathematical values.
        """
        for rank, shard in shards.items():
            if rank in self._recorders:
                self._recorders[rank].add(id_, shard.array, shard.layout, scale=scale)

    def add_operation(
        self, id_: TensorId, part: OperationPart, shards: Mapping[int, RankShard]
    ) -> None:
        """Records what the ranks hold of an operand or a result, each for itself.

        Args:
            id_: Of the call; the slot is made here.
            part: Which operand or result it is.
            shards: By rank; ranks that do not record are passed over.
        """
        for rank, shard in shards.items():
            if rank in self._recorders:
                self._recorders[rank].add(
                    dataclasses.replace(id_, slot=operation_slot(part, rank)),
                    shard.array,
                    shard.layout,
                    operation=part,
                )

    def skip(self, id_: TensorId, reason: str) -> None:
        """Notes that a tensor was seen and not recorded, on the first rank."""
        for recorder in list(self._recorders.values())[:1]:
            recorder.skip(id_, reason)

    def state(self, settings: Mapping[str, str]) -> None:
        """Adds to the settings of all ranks."""
        if settings:
            for recorder in self._recorders.values():
                recorder.state(settings)

    def state_rank(self, rank: int, settings: Mapping[str, str]) -> None:
        """Adds to the settings of one rank, if it is one that records here."""
        if rank in self._recorders:
            self._recorders[rank].state(settings)

    def close(self, *, nothing_recorded: str) -> None:
        """Completes the ranks, or says why nothing may have been recorded."""
        self._end(lambda each: each.close(nothing_recorded=nothing_recorded))

    def abort(self, reason: str) -> None:
        """Leaves the ranks incomplete."""
        self._end(lambda each: each.abort(reason))

    def _end(self, end: Callable[[RankRecorder], None]) -> None:
        for recorder in self._recorders.values():
            end(recorder)
