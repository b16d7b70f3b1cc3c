"""Writers of a process's ranks, with sinks in memory."""

import numpy as np
import pytest

from ttrace.errors import DtypeError, StorageFullError
from ttrace.frontends.jax_parts.record.shards import RankShard
from ttrace.frontends.jax_parts.record.writers import RankWriters
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import Kind, TensorId
from ttrace.recording.memory_sink import MemorySink

ID = TensorId(step=0, module="layer", kind=Kind.OUTPUT, slot="0")


class Ranks:
    """Writers of ranks 0 and 2, and their sinks."""

    def __init__(self):
        self.sinks = {0: MemorySink(), 2: MemorySink()}
        self.writers = RankWriters([0, 2], self.sinks.__getitem__)

    def add(self, slot: str = "0", dtype: str = "float32") -> None:
        shard = RankShard(layout=whole((2,), "devices"), array=np.zeros(2, dtype))
        self.writers.add(
            TensorId(step=0, module="layer", kind=Kind.OUTPUT, slot=slot),
            {rank: shard for rank in range(3)},
            exact_replicas=True,
        )


def test_every_rank_that_records_gets_its_shard():
    ranks = Ranks()
    ranks.add()
    ranks.add("1")
    assert ranks.writers.num_recorded == 4
    for rank, sink in ranks.sinks.items():
        records = list(sink.records.values())
        assert [record.sequence for record in records] == [0, 1]
        assert all(record.rank == rank for record in records)
        assert all(record.exact_replicas for record in records)


def test_a_skip_is_noted_once():
    ranks = Ranks()
    ranks.writers.skip(ID, "unknown")
    assert [sink.skipped for sink in ranks.sinks.values()] == [
        {str(ID): "unknown"},
        {},
    ]


def test_a_dtype_that_a_trace_cannot_hold_is_refused_before_anything_is_recorded():
    ranks = Ranks()
    with pytest.raises(DtypeError):
        ranks.add(dtype="complex64")
    assert ranks.writers.num_recorded == 0
    assert not any(sink.records for sink in ranks.sinks.values())


def test_a_full_disk_stops_recording_and_nothing_else(caplog):
    ranks = Ranks()
    ranks.sinks[0].failure = StorageFullError("full", remedy="make room")
    ranks.add()
    ranks.add("1")
    assert not ranks.writers.is_active
    assert caplog.text.count("recording stopped, training goes on") == 1
    assert "1" not in "".join(ranks.sinks[2].records)


def test_the_same_tensor_twice_is_recorded_once(caplog):
    ranks = Ranks()
    ranks.add()
    ranks.add()
    assert ranks.writers.num_recorded == 2
    assert "a tensor id came twice" in caplog.text


def test_ranks_end_together():
    ranks = Ranks()
    ranks.writers.close()
    assert {sink.ending for sink in ranks.sinks.values()} == {"closed"}
    ranks = Ranks()
    ranks.writers.abort("stop")
    assert {sink.ending for sink in ranks.sinks.values()} == {"stop"}
