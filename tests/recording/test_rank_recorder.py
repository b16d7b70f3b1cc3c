"""The recording core of a rank, on sinks in memory."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from ttrace.errors import StorageFullError, UsageError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.rank_recorder import (
    ProcessRecording,
    RankRecorder,
    make_rank_info,
    open_recorder,
)
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace

NOTHING = "nothing was recorded: the model never ran"
FULL = StorageFullError("the disk is full", remedy="make room")


def an_id(slot: str, kind: Kind = Kind.OUTPUT) -> TensorId:
    return TensorId(step=0, module="layer", kind=kind, slot=slot)


def an_info(rank: int = 0, world_size: int = 1, **filters: str) -> RankInfo:
    return make_rank_info(
        RecordRequest(out=Path("trace"), capture=CaptureFilter.from_json(filters)),
        rank=rank,
        world_size=world_size,
        framework="torch",
        versions={},
        meshes=(),
        settings={},
    )


class Rank:
    """A recorder and its sink."""

    def __init__(
        self,
        info: RankInfo | None = None,
        process: ProcessRecording | None = None,
    ):
        self.sink = MemorySink()
        self.recorder = RankRecorder(self.sink, info or an_info(), process=process)

    def add(self, slot: str = "0", kind: Kind = Kind.OUTPUT, dtype="float32") -> None:
        self.recorder.add(an_id(slot, kind), np.ones(2, dtype), whole((2,), "dense"))


class Failing(MemorySink):
    """Raises what no sink should raise."""

    def add(self, record, array):
        raise RuntimeError("cannot start a thread")


def test_records_and_skips_share_one_order():
    rank = Rank()
    rank.add("0")
    rank.recorder.skip(an_id("1"), "unknown")
    rank.add("2")
    assert [record.sequence for record in rank.sink.records.values()] == [0, 2]
    assert rank.sink.skipped == {str(an_id("1")): "unknown"}
    assert rank.recorder.num_recorded == 2


@pytest.mark.parametrize(
    ("kind", "is_exact"),
    [(Kind.PARAM, True), (Kind.MAIN_GRAD, True), (Kind.OUTPUT, False)],
)
def test_the_kind_says_whether_replicas_agree_in_every_bit(kind, is_exact):
    rank = Rank(an_info(3, 4))
    rank.recorder.add(an_id("0", kind), np.ones(()), whole((), "dense"), scale=2.0)
    (record,) = rank.sink.records.values()
    assert (record.exact_replicas, record.scale, record.rank) == (is_exact, 2.0, 3)


def test_what_a_trace_cannot_hold_is_skipped():
    rank = Rank()
    rank.add("0", dtype="complex64")
    rank.recorder.add(an_id("1"), np.ones(3), whole((2,), "dense"))
    assert rank.sink.skipped == {
        str(an_id("0")): "the dtype complex64 cannot be stored in a trace",
        str(an_id("1")): "its shape is [3], its layout is for [2]",
    }
    assert rank.recorder.is_active
    assert rank.recorder.num_recorded == 0


def test_a_tensor_that_comes_twice_is_warned_of_once(caplog):
    rank = Rank(process=ProcessRecording(repeat_hint="Is trace.step() missing?"))
    for slot in "0011":
        rank.add(slot)
    assert list(rank.sink.records) == [str(an_id("0")), str(an_id("1"))]
    assert caplog.text.count("came twice") == 1
    assert "(later ones are not reported again). Is trace.step() missing?" in (
        caplog.text
    )
    assert [record.sequence for record in rank.sink.records.values()] == [0, 1]
    assert rank.sink.skipped == {
        f"{an_id(slot)}/call1": "it came twice, and only the first one is recorded. Is "
        "trace.step() missing?"
        for slot in "01"
    }


def test_a_failing_sink_stops_recording_with_one_warning(caplog):
    rank = Rank()
    rank.add("0")
    rank.sink.failure = FULL
    rank.add("1")
    rank.add("2")
    rank.recorder.skip(an_id("3"), "unknown")
    assert not rank.recorder.is_active
    assert str(an_id("2")) not in rank.sink.records
    assert not rank.sink.skipped
    rank.recorder.close(nothing_recorded=NOTHING)
    assert rank.sink.ending == "recording stopped: the disk is full"
    assert caplog.text.count("recording stopped, training goes on") == 1
    assert caplog.text.count("the disk is full") == 1


def test_whatever_a_sink_raises_does_not_reach_the_training(caplog):
    rank = Rank()
    recorder = RankRecorder(Failing(), an_info())
    rank.recorder = recorder
    rank.add()
    assert not recorder.is_active
    assert recorder.num_recorded == 0
    assert "cannot start a thread" in caplog.text


def test_one_failure_stops_all_ranks_of_a_process(caplog):
    process = ProcessRecording()
    ranks = [Rank(an_info(number, 2), process) for number in range(2)]
    for rank in ranks:
        rank.add("0")
    ranks[0].sink.failure = FULL
    for rank in ranks:
        rank.add("1")
    assert str(an_id("1")) not in ranks[1].sink.records
    for rank in ranks:
        rank.recorder.close(nothing_recorded=NOTHING)
    assert {rank.sink.ending for rank in ranks} == {
        "recording stopped: the disk is full"
    }
    assert caplog.text.count("the disk is full") == 1


@pytest.mark.parametrize(
    ("world_size", "filters", "ending"),
    [
        (1, {}, NOTHING),
        (1, {"modules": "head"}, NOTHING),
        (2, {}, NOTHING),
        (2, {"modules": "head"}, "closed"),
    ],
)
def test_nothing_recorded_is_incomplete_unless_a_filter_may_be_why(
    world_size, filters, ending
):
    rank = Rank(an_info(0, world_size, **filters))
    rank.recorder.skip(an_id("0"), "unknown")
    rank.recorder.close(nothing_recorded=NOTHING)
    assert rank.sink.ending == ending


def test_a_rank_that_held_nothing_ends_as_the_others_of_its_process():
    process = ProcessRecording()
    ranks = [Rank(an_info(number, 2), process) for number in range(2)]
    ranks[0].add()
    for rank in ranks:
        rank.recorder.close(nothing_recorded=NOTHING)
    assert [rank.sink.ending for rank in ranks] == ["closed", "closed"]


def test_only_the_first_end_counts_and_nothing_comes_after_it():
    rank = Rank()
    rank.add("0")
    rank.recorder.abort("the script ended with KeyError")
    rank.recorder.close(nothing_recorded=NOTHING)
    rank.add("1")
    assert rank.sink.ending == "the script ended with KeyError"
    assert list(rank.sink.records) == [str(an_id("0"))]


def test_a_disk_that_is_full_at_the_very_end_is_said(caplog):
    rank = Rank()
    rank.add()
    rank.sink.failure = FULL
    rank.recorder.close(nothing_recorded=NOTHING)
    assert "ttrace: the trace is incomplete.\nthe disk is full" in caplog.text


def test_threads_share_one_order():
    rank = Rank()
    threads = [
        threading.Thread(target=lambda n=n: [rank.add(f"{n}.{m}") for m in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sequences = [record.sequence for record in rank.sink.records.values()]
    assert sequences == list(range(200))
    assert rank.recorder.num_recorded == 200


def test_a_rank_opens_its_trace(tmp_path):
    request = RecordRequest(out=tmp_path / "trace", run_id="run", noise_seed=3)
    info = make_rank_info(
        request,
        rank=0,
        world_size=1,
        framework="torch",
        versions={"torch": "2"},
        meshes=(),
        settings={"a": 1},
    )
    recorder = open_recorder(request, info)
    assert recorder is not None
    recorder.add(an_id("0"), np.ones(2, np.float32), whole((2,), "dense"))
    recorder.close(nothing_recorded=NOTHING)
    (found,) = open_trace(request.out).info.ranks
    assert found == info
    assert (found.run_id, found.noise_seed, found.settings) == ("run", 3, {"a": 1})


def test_a_rank_that_is_filtered_out_opens_nothing(tmp_path):
    info = an_info(1, 2, ranks="0")
    request = RecordRequest(out=tmp_path / "trace")
    assert open_recorder(request, info, open_sink=lambda info: MemorySink()) is None
    assert not (tmp_path / "trace").exists()
    with pytest.raises(UsageError, match="no rank of this run"):
        an_info(0, 1, ranks="5")


@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize(
    ("steps", "num_steps", "reason"),
    [
        ("9", 2, "the run had steps 0-1, and --steps asks for 9"),
        ("1,3-4", 1, "the run had step 0, and --steps asks for 1,3,4"),
        ("1,9", 2, None),
        ("9", None, None),
        ("9", 0, None),
    ],
)
def test_steps_that_a_run_did_not_have(world_size, steps, num_steps, reason):
    capture = CaptureFilter.from_json({"steps": steps}).to_json()
    info = dataclasses.replace(an_info(0, world_size), capture=capture)
    rank = Rank(info)
    rank.recorder.close(nothing_recorded="no idea", num_steps=num_steps)
    otherwise = "no idea" if world_size == 1 else "closed"
    assert rank.sink.ending == (reason or otherwise)
