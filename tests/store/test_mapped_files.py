import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.factories.resident_memory import resident_bytes
from tests.factories.traces import write_trace
from tests.paths import ROOT
from ttrace.errors import CorruptTraceError, TraceError
from ttrace.store.files import hash_bytes
from ttrace.store.mapped_files import (
    MappedFiles,
    check_size,
    check_unchanged,
    hash_of_mapped,
    let_go,
    map_file,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * 1024)
    return path


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_map_holds_no_descriptor_and_lives_as_long_as_its_views(file):
    before = num_descriptors()
    views = [map_file(file, 4096)[number : number + 8] for number in range(40)]
    assert num_descriptors() == before
    file.unlink()
    for number, view in enumerate(views):
        assert view.tolist() == list(range(number, number + 8))
        assert not view.flags.writeable


def test_what_is_let_go_can_be_read_again(file):
    maps = MappedFiles[str](resident_bytes=1)
    first = maps.get("a", lambda: map_file(file, 4096), 4096)
    for _ in range(3):  # each lets go what the one before has read
        again = maps.get("a", lambda: pytest.fail("is mapped already"), 4096)
        assert np.shares_memory(first, again)
        assert first[:300].tolist() == [*range(256), *range(44)]


def test_the_file_that_was_not_used_longest_is_released(file):
    maps = MappedFiles[str](max_files=2)
    made = []

    def get(key: str) -> np.ndarray:
        return maps.get(key, lambda: made.append(key) or map_file(file, 4096), 8)

    held = get("a")
    for key in "babcab":
        get(key)
    assert made == ["a", "b", "c", "a", "b"]
    assert held[5] == 5


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs Linux")
def test_what_was_read_does_not_stay_in_memory(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 24))
    maps = MappedFiles[str](resident_bytes=1 << 20)
    most = 0
    for start in range(0, 1 << 24, 1 << 18):
        content = maps.get("a", lambda: map_file(path, 1 << 24), 1 << 18)
        content[start : start + (1 << 18)].sum()
        most = max(most, resident_bytes(path))
    assert 0 < most <= 4 << 20  # of 16 MiB; large pages round it up


def test_a_file_that_is_shorter_than_it_was(file):
    file.write_bytes(b"short")
    for look in (check_size, map_file):
        with pytest.raises(TraceError) as raised:
            look(file, 4096)
        assert str(raised.value) == (
            "a file has become shorter since it was opened\n"
            f"  where:    {file}\n"
            "  expected: at least 4096 bytes\n"
            "  got:      5 bytes\n"
            "  to do:    leave the file alone while it is compared; record or copy it "
            "again"
        )
    file.unlink()
    with pytest.raises(TraceError, match="cannot be read"):
        check_size(file, 4096)


@pytest.mark.parametrize("harm", ["shrinks", "disappears"])
def test_a_segment_that_is_harmed_between_two_loads(tmp_path, harm):
    tensors = {f"step0/m{n}/param/w": np.ones(5000, np.float32) for n in range(3)}
    trace = write_trace(tmp_path / "trace", tensors)
    first, second, _ = [record.shards[0] for record in trace.info.tensors.values()]
    trace.load(first)
    (segment,) = (tmp_path / "trace" / "rank00000").glob("segment-*")
    if harm == "shrinks":
        os.truncate(segment, 9000)
    else:
        segment.unlink()
    expected = "truncated or has grown" if harm == "shrinks" else "is missing"
    with pytest.raises(CorruptTraceError, match=expected):
        trace.load(second)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs Linux")
def test_a_hash_leaves_nothing_in_memory_and_sees_a_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("ttrace.store.mapped_files.HASHED_BYTES", 1 << 16)
    path = tmp_path / "large"
    content = np.random.default_rng(0).bytes((1 << 24) + 5)
    path.write_bytes(content)
    data = map_file(path, len(content))
    assert hash_of_mapped(data) == hash_bytes(content)
    assert hash_of_mapped(data[:100]) == hash_bytes(content[:100])
    assert resident_bytes(path) <= 4 << 20  # large pages round it up
    os.truncate(path, 1 << 21)
    with pytest.raises(TraceError, match="a file has become shorter"):
        hash_of_mapped(data)


def test_arrays_of_no_file_are_let_be(file):
    array = np.arange(5)
    check_unchanged(array, array[1:])
    let_go(array)
    assert array.tolist() == [0, 1, 2, 3, 4]
    view = map_file(file, 4096).view(np.uint16)
    check_unchanged(view[3:])
    let_go(view[3:40])
    assert view[0] == 256
    file.write_bytes(b"short")
    with pytest.raises(TraceError, match="a file has become shorter"):
        check_unchanged(array, view[3:])


MANY_FILES = """
    import resource, sys
    from pathlib import Path
    import numpy as np

    sys.path.insert(0, sys.argv[1])
    from tests.factories.traces import MESH, rank_infos
    from ttrace.ir.layout import whole
    from ttrace.ir.tensor_id import parse_tensor_id
    from ttrace.ir.trace import ShardRecord
    from ttrace.store.reader import open_trace
    from ttrace.store.writer import TraceWriter

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    (info,) = rank_infos()
    path = Path(sys.argv[2])
    with TraceWriter(path, info, segment_bytes=1) as writer:
        for number in range(200):
            writer.add(
                ShardRecord(
                    id=parse_tensor_id(f"step0/m{number}/param/w"),
                    rank=0,
                    sequence=number,
                    dtype="float32",
                    layout=whole((3,), MESH),
                ),
                np.full(3, number, np.float32),
            )
    assert writer.failure is None, writer.failure
    trace = open_trace(path)
    assert len(list(path.glob("*/segment-*"))) > 64
    held = [trace.load(tensor.shards[0]) for tensor in trace.info.tensors.values()]
    assert [array[0] for array in held] == list(range(200))
"""


def test_a_limit_of_64_descriptors_does_for_many_files(tmp_path):
    script = textwrap.dedent(MANY_FILES)
    subprocess.run(
        [sys.executable, "-c", script, ROOT, tmp_path / "trace"],
        check=True,
        timeout=120,
    )
