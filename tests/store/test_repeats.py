import json
from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import MESH, rank_infos
from ttrace.errors import CorruptTraceError
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import ShardRecord
from ttrace.store import repeats
from ttrace.store.files import encode_document, hash_bytes
from ttrace.store.reader import Trace, open_trace
from ttrace.store.writer import TraceWriter

(INFO,) = rank_infos()
DATA = np.random.default_rng(0).standard_normal((60, 50), np.float32)


def write(path: Path, arrays: dict[str, np.ndarray], **options) -> Trace:
    with TraceWriter(path, INFO, **options) as writer:
        for sequence, (name, array) in enumerate(arrays.items()):
            writer.add(
                ShardRecord(
                    id=parse_tensor_id(f"step0/mb0/{name}/output/0"),
                    rank=0,
                    sequence=sequence,
                    dtype=array.dtype.name,
                    layout=whole(array.shape, MESH),
                ),
                array,
            )
    assert writer.failure is None, writer.failure
    return open_trace(path)


def check(trace: Trace, arrays: dict[str, np.ndarray]) -> None:
    held = {
        id_.module: trace.load(tensor.shards[0])
        for id_, tensor in trace.info.tensors.items()
    }
    assert list(held) == list(arrays)
    for name, array in arrays.items():
        assert held[name].dtype == array.dtype
        np.testing.assert_array_equal(held[name], array)


def data_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*/segment-*"))


@pytest.mark.parametrize("segment_bytes", [1, 1 << 20], ids=["apart", "together"])
def test_equal_arrays_are_written_once(tmp_path, segment_bytes):
    once = {"a": DATA, "b": DATA + 1}
    # The same memory, a copy, another shape and dtype of the same bytes, and strides.
    again = {
        "same": DATA,
        "copied": DATA.copy(),
        "flat": DATA.reshape(-1),
        "ints": DATA.view(np.int32),
        "strided": np.asfortranarray(DATA),
        "later": DATA + 1,
    }
    write(tmp_path / "once", once, segment_bytes=segment_bytes)
    trace = write(tmp_path / "all", once | again, segment_bytes=segment_bytes)
    check(trace, once | again)
    num_bytes = data_bytes(tmp_path / "once")
    assert 2 * DATA.nbytes < num_bytes < 2.1 * DATA.nbytes
    assert data_bytes(tmp_path / "all") <= num_bytes + 64


def test_other_values_small_and_empty_arrays_are_written_themselves(tmp_path):
    nudged = DATA.copy()
    nudged[-1, -1] += 1
    negative_zero = {"zero": np.zeros(999, np.float32), "minus": -np.zeros(999, "f4")}
    small = {f"small{n}": np.ones(9, np.float32) for n in range(3)}
    empty = {f"empty{n}": np.ones((0, 4), np.float32) for n in range(3)}
    arrays = {"a": DATA, "nudged": nudged} | negative_zero | small | empty
    trace = write(tmp_path / "trace", arrays)
    check(trace, arrays)
    assert np.signbit(trace.load(_shard(trace, "minus"))).all()
    assert data_bytes(tmp_path / "trace") > sum(a.nbytes for a in arrays.values())


def _shard(trace: Trace, module: str) -> ShardRecord:
    return trace.info.tensors[parse_tensor_id(f"step0/mb0/{module}/output/0")].shards[0]


@pytest.mark.parametrize("segment_bytes", [1, 1 << 20], ids=["apart", "together"])
def test_equal_hashes_alone_are_not_believed(tmp_path, monkeypatch, segment_bytes):
    monkeypatch.setattr(repeats, "hash_bytes", lambda data: "0" * 16)
    arrays = {f"m{n}": DATA + n for n in range(4)} | {"first": DATA}
    write(tmp_path / "trace", arrays, segment_bytes=segment_bytes)
    trace = open_trace(tmp_path / "trace", verify=False)
    check(trace, arrays)
    assert data_bytes(tmp_path / "trace") < 4.1 * DATA.nbytes


def test_a_place_in_a_segment_that_was_not_named_before(tmp_path):
    path = tmp_path / "trace"
    write(path, {"a": DATA, "b": DATA}, segment_bytes=1)
    index = path / "rank00000" / "index.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    body = lines[-1].replace(b"segment-00000", b"segment-00007")
    head = json.loads(lines[-2]) | {"lines_xxh3_64": hash_bytes(body)}
    lines[-2:] = [json.dumps(head).encode() + b"\n", body]
    index.write_bytes(b"".join(lines))
    with pytest.raises(CorruptTraceError, match=r"b/output/0 lies in no segment"):
        open_trace(path)


def test_traces_of_the_version_before_are_read(tmp_path):
    arrays = {"a": DATA, "b": DATA + 1}
    path = tmp_path / "trace"
    write(path, arrays)
    manifest, complete = (
        path / "rank00000" / name for name in ("manifest.json", "complete.json")
    )
    manifest.write_bytes(
        encode_document(json.loads(manifest.read_bytes()) | {"schema_version": 1})
    )
    stated = {
        "schema_version": 1,
        "manifest_xxh3_64": hash_bytes(manifest.read_bytes()),
    }
    complete.write_bytes(encode_document(json.loads(complete.read_bytes()) | stated))
    check(open_trace(path), arrays)
