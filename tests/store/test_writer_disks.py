"""Disks that fail under a writer: capture stops, training goes on."""

import errno
import os
import re
import resource
import threading
import weakref

import numpy as np
import pytest

from tests.factories.written_ranks import (
    INFO,
    SCRIPT_HEAD,
    record,
    run_script,
    wait_for,
)
from ttrace.errors import (
    IncompleteTraceError,
    StorageFullError,
    TraceError,
)
from ttrace.store import rank_folder
from ttrace.store.reader import open_trace
from ttrace.store.writer import TraceWriter


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
