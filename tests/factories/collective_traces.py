"""Traces of collectives in memory: what every rank gave and got."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tests.factories.traces import rank_infos
from ttrace.ir.collective import OWN, CollectivePart, Role
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord, TensorRecord, TraceInfo
from ttrace.store.memory_trace import MemoryTrace
from ttrace.store.writer import TraceWriter

Arrays = np.ndarray | Sequence[np.ndarray]


@dataclass(kw_only=True)
class Collective:
    """One collective of a group; arrays by rank, one or a list for each."""

    name: str
    operands: Mapping[int, Arrays]
    results: Mapping[int, Arrays]
    group: tuple[int, ...] = (0, 1)
    number: int = 0
    reduction: str = ""
    root: int | None = None
    operand_splits: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    result_splits: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    module: str = "layers.0"
    source: str = "train.py:88"
    library: str = ""
    slot: str | None = None
    microbatch: int | None = 0

    def records(self) -> Iterable[tuple[ShardRecord, np.ndarray]]:
        for role, of_ranks, splits in (
            (Role.OPERAND, self.operands, self.operand_splits),
            (Role.RESULT, self.results, self.result_splits),
        ):
            for rank, arrays in of_ranks.items():
                several = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
                for position, array in enumerate(several):
                    which = f".{position}" if len(several) > 1 else ""
                    slot = self.slot or f"{self.name}.{self.number}"
                    record = ShardRecord(
                        id=TensorId(
                            step=0,
                            microbatch=self.microbatch,
                            module=self.module,
                            kind=Kind.COLLECTIVE,
                            slot=f"{slot}.{role.value}{which}.rank{rank}",
                        ),
                        rank=rank,
                        sequence=0,
                        dtype=array.dtype.name,
                        layout=whole(array.shape, OWN),
                        collective=CollectivePart(
                            name=self.name,
                            number=self.number,
                            group=self.group,
                            group_name="0",
                            role=role,
                            position=position,
                            reduction=self.reduction,
                            root=self.root,
                            splits=splits.get(rank, ()),
                            source=self.source,
                            library=self.library,
                        ),
                    )
                    yield record, array


def collective_trace(
    *collectives: Collective,
    sizes: Mapping[str, int] | None = None,
    others: MemoryTrace | None = None,
    skipped: Mapping[TensorId, SkippedRecord] | None = None,
    **fields,
) -> MemoryTrace:
    """A trace of these.

    Args:
        collectives: In order.
        sizes: Sizes of the mesh axes; ``tp`` 2 if None.
        others: A trace of the same ranks whose tensors come first.
        skipped: What was not recorded.
        **fields: As for ``rank_infos``.
    """
    fields = {"capture": {"kinds": "input,output,collective"}, **fields}
    infos = rank_infos(sizes or {"tp": 2}, **fields)
    tensors: dict[TensorId, TensorRecord] = {}
    arrays: dict[tuple[int, str], np.ndarray] = {}
    if others is not None:
        tensors |= others.info.tensors
        for record in others.info.tensors.values():
            for shard in record.shards:
                arrays[shard.rank, str(shard.id)] = others.load(shard)
    made = [pair for collective in collectives for pair in collective.records()]
    for sequence, (record, array) in enumerate(made, start=len(tensors)):
        record = replace(record, sequence=sequence)
        tensors[record.id] = TensorRecord(id=record.id, shards=(record,))
        arrays[record.rank, str(record.id)] = array
    return MemoryTrace(
        TraceInfo(ranks=tuple(infos), tensors=tensors, skipped=skipped or {}), arrays
    )


def write_collectives(path: Path, trace: MemoryTrace) -> None:
    """Puts such a trace on disk."""
    for info in trace.info.ranks:
        with TraceWriter(path, info) as writer:
            for record in trace.info.tensors.values():
                for shard in record.shards:
                    if shard.rank == info.rank:
                        writer.add(shard, trace.load(shard))
