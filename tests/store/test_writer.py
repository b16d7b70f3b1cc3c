import dataclasses
import errno
import json
import os
import re
import resource
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

from ttrace.errors import (
    DtypeError,
    IncompleteTraceError,
    LayoutError,
    StorageFullError,
    TensorIdError,
    TraceError,
    TraceExistsError,
    UsageError,
)
from ttrace.ir.dtypes import DTYPES
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord
from ttrace.store import rank_folder
from ttrace.store.reader import open_trace
from ttrace.store.writer import TraceWriter

INFO = RankInfo(
    run_id="run",
    rank=0,
    world_size=1,
    recorded_ranks=(0,),
    framework="test",
    settings={"allow_tf32": False, "lr": float("inf")},
)


def tensor_id(module):
    return TensorId(step=0, module=module, kind=Kind.OUTPUT)


def record(module, array, sequence=0, **changes):
    values = {
        "id": tensor_id(module),
        "rank": 0,
        "sequence": sequence,
        "dtype": array.dtype.name,
        "layout": whole(array.shape, "mesh"),
    }
    return ShardRecord(**(values | changes))


def skipped(module, reason="no rule"):
    return SkippedRecord(id=tensor_id(module), rank=0, sequence=0, reason=reason)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


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
    assert manifest["schema_version"] == 1
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
        "to be recorded"
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


def run_script(script, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
    )


SCRIPT_HEAD = """
    import sys
    import numpy as np
    from ttrace.ir.layout import whole
    from ttrace.ir.kinds import Kind
    from ttrace.ir.tensor_id import TensorId
    from ttrace.ir.trace import RankInfo, ShardRecord
    from ttrace.store.writer import TraceWriter

    info = RankInfo(
        run_id="run", rank=0, world_size=1, recorded_ranks=(0,), framework="test"
    )
    array = np.arange(1024, dtype=np.float32)

    def record(number):
        return ShardRecord(
            id=TensorId(step=0, module=f"m{number}", kind=Kind.OUTPUT),
            rank=0,
            sequence=number,
            dtype="float32",
            layout=whole((1024,), "mesh"),
        )

    writer = TraceWriter(sys.argv[1], info, segment_bytes=20000)
"""


def test_exit_without_close_leaves_the_rank_incomplete(tmp_path):
    done = run_script(
        SCRIPT_HEAD + "\n    for i in range(50): writer.add(record(i), array)", tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(IncompleteTraceError, match="still being written, or was cut"):
        open_trace(tmp_path)


# Disks that fail.


def fail_fsync(monkeypatch, number, *, after=0):
    """Makes every fsync after the first few fail; they are one per segment."""
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


@pytest.mark.parametrize(
    ("number", "kind", "what"),
    [
        (errno.ENOSPC, StorageFullError, "no space left for the trace"),
        (errno.EDQUOT, StorageFullError, "no space left for the trace"),
        (errno.EACCES, StorageFullError, "no permission to write the trace"),
        (errno.EROFS, StorageFullError, "no permission to write the trace"),
        (errno.EIO, TraceError, "the trace could not be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failing_disk_stops_capture_only(tmp_path, monkeypatch, number, kind, what):
    arrays = [np.full(1024, i, np.float32) for i in range(40)]
    freed = [weakref.ref(array) for array in arrays]
    with TraceWriter(tmp_path, INFO, segment_bytes=16000, queue_bytes=32000) as writer:
        fail_fsync(monkeypatch, number, after=2)
        for i in range(40):
            array = arrays.pop(0)
            writer.add(record(f"m{i}", array, i), array)
            del array
        wait_for(lambda: writer.failure is not None)
        wait_for(lambda: all(reference() is None for reference in freed))
        array = np.zeros(1, np.float32)
        writer.add(record("m0", array), array)  # the id again: not even looked at
        monkeypatch.undo()
    assert type(writer.failure) is kind
    assert re.fullmatch(
        f"{what}\n  where:    {re.escape(str(writer.folder))}\n  got: .*\n  to do: .*",
        str(writer.failure),
    )
    assert not list(writer.folder.glob("*.tmp"))
    with pytest.raises(IncompleteTraceError):
        open_trace(tmp_path)
    trace = open_trace(tmp_path, allow_incomplete=True)
    assert 0 < len(trace.info.tensors) < 40
    for i, tensor in enumerate(trace.info.tensors.values()):
        assert np.array_equal(trace.load(tensor.shards[0]), np.full(1024, i))


def test_the_reason_of_a_full_disk_is_shown_to_the_reader(tmp_path, monkeypatch):
    array = np.zeros(10, np.float32)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with TraceWriter(tmp_path, INFO) as writer:
        monkeypatch.setattr(rank_folder, "write_segment", full)
        writer.add(record("m", array), array)
    assert isinstance(writer.failure, StorageFullError)
    with pytest.raises(IncompleteTraceError) as error:
        open_trace(tmp_path)
    assert str(error.value) == (
        "the trace is incomplete\n"
        f"  where:    {tmp_path}\n"
        "  expected: a complete.json from every recorded rank\n"
        "  got:      rank00000: no space left for the trace\n"
        "  to do:    wait until the run has ended, or mend what ended it and record it "
        "again; 'ttrace show' lists what is there"
    )


def test_a_disk_that_fails_at_the_very_end(tmp_path, monkeypatch):
    array = np.zeros(10, np.float32)
    writer = TraceWriter(tmp_path, INFO)
    writer.add(record("m", array), array)
    calls = fail_fsync(monkeypatch, errno.ENOSPC, after=3)  # segment, index, folder
    writer.close()
    monkeypatch.undo()
    assert len(calls) >= 4
    assert isinstance(writer.failure, StorageFullError)
    with pytest.raises(IncompleteTraceError, match="still being written, or was cut"):
        open_trace(tmp_path)
    trace = open_trace(tmp_path, allow_incomplete=True)
    assert len(trace.info.tensors) == 1


def test_an_unexpected_error_stops_capture_only(tmp_path, monkeypatch):
    def broken(*_):
        raise MemoryError("no more")

    monkeypatch.setattr(rank_folder, "plan_segment", broken)
    array = np.zeros(10, np.float32)
    with TraceWriter(tmp_path, INFO) as writer:
        writer.add(record("m", array), array)
    assert str(writer.failure).startswith("capture stopped: MemoryError: no more\n")


def test_a_blocked_add_goes_on_when_the_disk_fails(tmp_path, monkeypatch):
    entered, fail = threading.Event(), threading.Event()

    def slow(*_):
        entered.set()
        assert fail.wait(30)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rank_folder, "write_segment", slow)
    array = np.zeros(1000, np.float32)
    with TraceWriter(tmp_path, INFO, segment_bytes=1, queue_bytes=6000) as writer:
        writer.add(record("a", array), array)
        assert entered.wait(30)
        adder = threading.Thread(target=writer.add, args=(record("b", array), array))
        adder.start()
        adder.join(0.05)
        assert adder.is_alive(), "the queue is bounded"
        fail.set()
        adder.join(30)
        assert not adder.is_alive()


def test_a_larger_array_is_let_through_alone(tmp_path):
    array = np.arange(10000, dtype=np.float64)
    with TraceWriter(tmp_path, INFO, segment_bytes=100, queue_bytes=1000) as writer:
        for i in range(5):
            writer.add(record(f"m{i}", array, i), array)
    trace = open_trace(tmp_path)
    for tensor in trace.info.tensors.values():
        assert np.array_equal(trace.load(tensor.shards[0]), array)


def test_a_real_limit_on_file_size(tmp_path):
    """RLIMIT_FSIZE makes the system refuse the write, as a full disk does."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    done = run_script(
        SCRIPT_HEAD
        + """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, int(sys.argv[2])))
    with writer:
        for i in range(50):
            writer.add(record(i), array)
    print(type(writer.failure).__name__)
        """,
        tmp_path,
        hard,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "StorageFullError\n", "")
    with pytest.raises(IncompleteTraceError, match="rank00000: no space left"):
        open_trace(tmp_path)


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def forbidden(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", forbidden)
    folder = tmp_path / "rank00000"
    with pytest.raises(StorageFullError) as error:
        TraceWriter(tmp_path, INFO)
    assert str(error.value) == (
        "no permission to write the trace\n"
        f"  where:    {folder}\n"
        f"  got:      [Errno 13] Permission denied: '{folder}'\n"
        "  to do:    make the folder writable, or record elsewhere with --out"
    )
