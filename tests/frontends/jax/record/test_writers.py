"""Writers of a process's ranks, with sinks in memory."""

from pathlib import Path

import numpy as np

from ttrace.errors import StorageFullError
from ttrace.frontends.jax_parts.record.shards import RankShard
from ttrace.frontends.jax_parts.record.writers import RankWriters
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.rank_recorder import (
    ProcessRecording,
    RankRecorder,
    make_rank_info,
)
from ttrace.recording.request import RecordRequest

NOTHING = "nothing was recorded"


def an_id(slot: str, kind: Kind = Kind.OUTPUT) -> TensorId:
    return TensorId(step=0, module="layer", kind=kind, slot=slot)


class Ranks:
    """Writers of ranks 0 and 2, and their sinks."""

    def __init__(self):
        self.sinks = {0: MemorySink(), 2: MemorySink()}
        self.process = ProcessRecording()
        self.writers = RankWriters(map(self.recorder, self.sinks))

    def recorder(self, rank: int) -> RankRecorder:
        info = make_rank_info(
            RecordRequest(out=Path("trace")),
            rank=rank,
            world_size=3,
            framework="jax",
            versions={},
            meshes=(),
            settings={},
        )
        return RankRecorder(self.sinks[rank], info, process=self.process)

    def add(
        self, slot: str = "0", dtype: str = "float32", kind: Kind = Kind.MAIN_GRAD
    ) -> None:
        shard = RankShard(layout=whole((2,), "devices"), array=np.zeros(2, dtype))
        self.writers.add(an_id(slot, kind), {rank: shard for rank in range(3)})


def test_every_rank_that_records_gets_its_shard():
    ranks = Ranks()
    ranks.add()
    ranks.add("1")
    assert ranks.process.num_recorded == 4
    for rank, sink in ranks.sinks.items():
        records = list(sink.records.values())
        assert [record.sequence for record in records] == [0, 1]
        assert all(record.rank == rank for record in records)
        assert all(record.exact_replicas for record in records)


def test_a_skip_is_noted_once():
    ranks = Ranks()
    ranks.writers.skip(an_id("0"), "unknown")
    assert [sink.skipped for sink in ranks.sinks.values()] == [
        {str(an_id("0")): "unknown"},
        {},
    ]


def test_a_dtype_that_a_trace_cannot_hold_is_skipped_on_every_rank():
    ranks = Ranks()
    ranks.add(dtype="complex64")
    reason = "the dtype complex64 cannot be stored in a trace"
    for sink in ranks.sinks.values():
        assert sink.skipped == {str(an_id("0", Kind.MAIN_GRAD)): reason}
    assert ranks.process.num_recorded == 0
    assert not any(sink.records for sink in ranks.sinks.values())


def test_a_full_disk_stops_recording_and_nothing_else(caplog):
    ranks = Ranks()
    ranks.sinks[0].failure = StorageFullError("full", remedy="make room")
    ranks.add()
    ranks.add("1")
    assert not ranks.process.is_active
    assert caplog.text.count("recording stopped, training goes on") == 1
    assert "1" not in "".join(ranks.sinks[2].records)


def test_the_same_tensor_twice_is_recorded_once(caplog):
    ranks = Ranks()
    ranks.add()
    ranks.add()
    assert ranks.process.num_recorded == 2
    assert caplog.text.count("came twice and only the first one is recorded") == 1


def test_ranks_end_together():
    ranks = Ranks()
    ranks.add()
    ranks.writers.close(nothing_recorded=NOTHING)
    assert {sink.ending for sink in ranks.sinks.values()} == {"closed"}
    ranks = Ranks()
    ranks.writers.close(nothing_recorded=NOTHING)
    assert {sink.ending for sink in ranks.sinks.values()} == {NOTHING}
    ranks = Ranks()
    ranks.writers.abort("stop")
    assert {sink.ending for sink in ranks.sinks.values()} == {"stop"}


def test_one_rank_says_what_others_do_not():
    ranks = Ranks()
    ranks.writers.state_rank(2, {"num_rewritten": "3"})
    ranks.writers.state_rank(1, {"num_rewritten": "4"})  # of another process
    ranks.writers.state({"learning_rate": "1"})
    settings = {rank: sink.settings for rank, sink in ranks.sinks.items()}
    assert settings == {
        0: {"learning_rate": "1"},
        2: {"num_rewritten": "3", "learning_rate": "1"},
    }
