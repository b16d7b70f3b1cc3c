"""Traces of one rank as they are written: contents, misuse, ends."""

import dataclasses
import json
import os
import threading

import numpy as np
import pytest

from tests.factories.written_ranks import (
    INFO,
    SCRIPT_HEAD,
    record,
    run_script,
    skipped,
    tensor_id,
)
from ttrace.errors import (
    DtypeError,
    IncompleteTraceError,
    LayoutError,
    TensorIdError,
    TraceExistsError,
    UsageError,
)
from ttrace.ir.dtypes import DTYPES
from ttrace.ir.trace import RankInfo
from ttrace.store.reader import open_trace
from ttrace.store.writer import TraceWriter


def bit_patterns(dtype):
    """All values of the narrow dtypes; special and random ones of the wide."""
    target = DTYPES[dtype].numpy
    if dtype == "bool":
        return np.array([True, False])
    if target.itemsize == 1:
        return np.arange(256, dtype=np.uint8).view(target)
    if target.itemsize == 2:
        return np.arange(65536, dtype=np.uint16).view(target)
    bits = np.random.default_rng(0).integers(0, 256, 8000, np.uint8).view(target)
    if target.kind != "f":
        return bits
    tiny = np.finfo(target).smallest_subnormal
    special = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, np.nan], target)
    payload = np.full(1, np.nan, target).view(f"u{target.itemsize}") | 0x1234
    return np.concatenate([special, payload.view(target), bits])


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_bits(tmp_path, dtype):
    flat = bit_patterns(dtype)
    arrays = {
        "flat": flat,
        "matrix": flat[: flat.size // 2 * 2].reshape(2, -1),
        "scalar": flat[-1].reshape(()),
        "empty": flat[:0],
        "empty_matrix": flat[:0].reshape(3, 0, 5),
        "strided": flat[::-2],
        "transposed": flat[: flat.size // 2 * 2].reshape(2, -1).T,
        "broadcast": np.broadcast_to(flat[0], (4, 3)),
    }
    with TraceWriter(tmp_path, INFO, segment_bytes=4096) as writer:
        for number, (name, array) in enumerate(arrays.items()):
            writer.add(record(name, array, number), array)
    trace = open_trace(tmp_path)
    assert [id_.module for id_ in trace.info.tensors] == list(arrays)
    for id_, tensor in trace.info.tensors.items():
        loaded, array = trace.load(tensor.shards[0]), arrays[id_.module]
        assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
        assert loaded.tobytes() == array.tobytes()
        assert not loaded.flags.writeable


def test_files_and_contents(tmp_path):
    array = np.ones((4, 4), np.float32)  # counts as 64 + 1024 bytes
    with TraceWriter(tmp_path / "new" / "trace", INFO, segment_bytes=2048) as writer:
        for number in range(4):
            writer.add(record(f"m{number}", array, number), array)
        writer.skip(skipped("odd"))
    folder = tmp_path / "new" / "trace" / "rank00000"
    assert writer.folder == folder
    assert sorted(os.listdir(folder)) == [
        "complete.json",
        "index.jsonl",
        "manifest.json",
        "segment-00000.safetensors",
        "segment-00001.safetensors",
    ]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["schema_version"] == 2
    assert RankInfo.from_json(manifest) == INFO
    complete = json.loads((folder / "complete.json").read_bytes())
    assert (complete["num_records"], complete["num_skipped"]) == (4, 1)
    trace = open_trace(tmp_path / "new" / "trace")
    assert trace.info.ranks == (INFO,)
    assert trace.info.skipped == {tensor_id("odd"): skipped("odd")}


def test_records_come_back_as_they_were(tmp_path):
    array = np.zeros((2,), np.float32)
    sent = record("m", array, 7, scale=0.5, exact_replicas=True)
    with TraceWriter(tmp_path, INFO) as writer:
        writer.add(sent, array)
    (tensor,) = open_trace(tmp_path).info.tensors.values()
    assert tensor.shards == (sent,)


def test_a_rank_with_nothing_is_complete(tmp_path):
    with TraceWriter(tmp_path, INFO):
        pass
    assert open_trace(tmp_path).info.tensors == {}


def test_many_threads(tmp_path):
    def add_all(writer, name):
        for number in range(100):
            array = np.full(10, number, np.float32)
            writer.add(record(f"{name}.{number}", array, number), array)

    with TraceWriter(tmp_path, INFO, segment_bytes=5000, queue_bytes=20000) as writer:
        threads = [
            threading.Thread(target=add_all, args=(writer, name)) for name in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trace = open_trace(tmp_path)
    assert len(trace.info.tensors) == 400
    for id_, tensor in trace.info.tensors.items():
        value = float(id_.module.split(".")[1])
        assert np.array_equal(trace.load(tensor.shards[0]), np.full(10, value))


# What a frontend can get wrong.


def test_an_id_twice(tmp_path):
    array = np.zeros(2, np.float32)
    with TraceWriter(tmp_path, INFO) as writer:
        writer.add(record("m", array), array)
        with pytest.raises(TensorIdError) as error:
            writer.add(record("m", array, 1), array)
        with pytest.raises(TensorIdError, match="recorded before, now skipped"):
            writer.skip(skipped("m"))
        writer.skip(skipped("other", "first"))
        writer.skip(skipped("other", "second"))
        with pytest.raises(TensorIdError, match="skipped before, now recorded"):
            writer.add(record("other", array), array)
    assert str(error.value) == (
        "a rank captured one tensor id twice\n"
        "  where:    step0/m/output, rank 0\n"
        "  expected: every id at most once per rank\n"
        "  got:      recorded before, now recorded\n"
        "  to do:    tell the two apart in the frontend, by slot or call number"
    )
    info = open_trace(tmp_path).info
    assert [id_.module for id_ in info.tensors] == ["m"]
    assert [skip.reason for skip in info.skipped.values()] == ["first"]


def test_an_array_that_is_not_what_the_record_says(tmp_path):
    array = np.zeros((2, 3), np.float32)
    with TraceWriter(tmp_path, INFO) as writer:
        with pytest.raises(LayoutError) as error:
            writer.add(record("m", array), array.T)
        with pytest.raises(DtypeError, match=r"(?s)expected: float32.*got: +float64"):
            writer.add(record("m", array), array.astype(np.float64))
        with pytest.raises(DtypeError):
            writer.add(record("m", array), array.astype(">f4"))
        writer.add(record("m", array), array)
    assert str(error.value) == (
        "an array has another shape than its layout says\n"
        "  where:    step0/m/output, rank 0\n"
        "  expected: local shape [2, 3]\n"
        "  got:      [3, 2]\n"
        "  to do:    record the array that the layout was made for"
    )


def test_a_record_of_another_rank(tmp_path):
    array = np.zeros(1, np.float32)
    with TraceWriter(tmp_path, INFO) as writer:
        with pytest.raises(UsageError, match=r"(?s)expected: rank 0.*got: +rank 1"):
            writer.add(record("m", array, rank=1), array)


def test_after_close(tmp_path):
    array = np.zeros(1, np.float32)
    writer = TraceWriter(tmp_path, INFO)
    writer.close()
    with pytest.raises(UsageError, match="captured after its trace was closed"):
        writer.add(record("m", array), array)
    writer.close()
    writer.abort("too late")
    assert writer.failure is None
    assert open_trace(tmp_path).info.tensors == {}


def test_a_rank_is_never_overwritten(tmp_path):
    TraceWriter(tmp_path, INFO).close()
    before = {path: path.read_bytes() for path in (tmp_path / "rank00000").iterdir()}
    with pytest.raises(TraceExistsError) as error:
        TraceWriter(tmp_path, INFO)
    assert str(error.value) == (
        "a trace is entered a second time in one process\n"
        f"  where:    {tmp_path / 'rank00000'}\n"
        "  expected: one 'with trace(...)' in a run, which has one trace\n"
        "  to do:    put one 'with trace(...)' around all training steps that are "
        "to be recorded, of one model that holds all others"
    )
    assert before == {p: p.read_bytes() for p in (tmp_path / "rank00000").iterdir()}
    with pytest.raises(TraceExistsError):
        TraceWriter(tmp_path / "rank00000" / "manifest.json", INFO)


def test_a_trace_inside_of_another_one(tmp_path):
    with TraceWriter(tmp_path, INFO):
        with pytest.raises(TraceExistsError, match="entered inside of another one"):
            TraceWriter(tmp_path, INFO)


@pytest.fixture
def written_by_another_process(tmp_path, monkeypatch):
    TraceWriter(tmp_path, INFO).close()
    monkeypatch.setattr("os.getpid", lambda: -1)


@pytest.mark.usefixtures("written_by_another_process")
def test_two_processes_of_one_rank(tmp_path):
    with pytest.raises(TraceExistsError, match="two processes of the run record as ra"):
        TraceWriter(tmp_path, INFO)


@pytest.mark.usefixtures("written_by_another_process")
def test_two_runs_into_one_folder(tmp_path):
    with pytest.raises(TraceExistsError, match="another run has recorded into") as e:
        TraceWriter(tmp_path, dataclasses.replace(INFO, run_id="other"))
    assert (e.value.expected, e.value.got) == ("run other", f"run {INFO.run_id}")


def test_something_else_in_the_place_of_a_rank(tmp_path):
    (tmp_path / "rank00000").mkdir()
    with pytest.raises(TraceExistsError, match="something where a rank's trace") as e:
        TraceWriter(tmp_path, INFO)
    assert e.value.remedy == "remove it, or record elsewhere with --out"


# Ends other than close.


def test_an_exception_leaves_the_rank_incomplete(tmp_path):
    array = np.arange(5, dtype=np.float32)
    writer = TraceWriter(tmp_path, INFO)
    with pytest.raises(ZeroDivisionError):
        with writer:
            writer.add(record("m", array), array)
            raise ZeroDivisionError("by zero\nsecond line")
    reason = "the run ended with ZeroDivisionError: by zero"
    assert str(writer.failure).startswith(reason + "\n")
    with pytest.raises(IncompleteTraceError, match=f"rank00000: {reason}\n"):
        open_trace(tmp_path)
    trace = open_trace(tmp_path, allow_incomplete=True)
    assert trace.incomplete == (f"rank00000: {reason}",)
    (tensor,) = trace.info.tensors.values()
    assert np.array_equal(trace.load(tensor.shards[0]), array)


def test_exit_without_close_leaves_the_rank_incomplete(tmp_path):
    done = run_script(
        SCRIPT_HEAD + "\n    for i in range(50): writer.add(record(i), array)", tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(IncompleteTraceError, match="still being written, or was cut"):
        open_trace(tmp_path)
