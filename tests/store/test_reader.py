import dataclasses
import functools
import threading

import numpy as np
import pytest

from ttrace.errors import (
    CorruptTraceError,
    IncompleteTraceError,
    LayoutError,
    TraceError,
    UsageError,
)
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Block, Region, ShardLayout, whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord
from ttrace.store import reader
from ttrace.store.mapped_files import MappedFiles
from ttrace.store.reader import open_trace
from ttrace.store.writer import TraceWriter

FULL = np.arange(4 * 6, dtype=np.float32).reshape(4, 6)


def rank_info(rank, world_size=2, **changes):
    info = RankInfo(
        run_id="run",
        rank=rank,
        world_size=world_size,
        recorded_ranks=tuple(range(world_size)),
        framework="test",
    )
    return dataclasses.replace(info, **changes)


def tensor_id(module):
    return TensorId(step=0, module=module, kind=Kind.OUTPUT)


def rows(start, stop, of=FULL.shape):
    """The layout of a rank that holds some rows."""
    extent = (stop - start, of[1])
    region = Region(start=(start, 0), extent=extent)
    return ShardLayout(
        global_shape=of,
        local_shape=extent,
        blocks=(Block(region=region, local_start=(0, 0)),),
        mesh="mesh",
    )


def record(module, rank, layout, sequence=0):
    return ShardRecord(
        id=tensor_id(module),
        rank=rank,
        sequence=sequence,
        dtype="float32",
        layout=layout,
    )


def write_rank(path, rank, contents, **options):
    """Writes (module, layout, array) contents in order."""
    with TraceWriter(path, rank_info(rank), **options) as writer:
        for sequence, (module, layout, array) in enumerate(contents):
            writer.add(record(module, rank, layout, sequence), array)


def write_two_ranks(path, **options):
    for rank in (0, 1):
        low, high = 2 * rank, 2 * rank + 2
        own = (f"only.{rank}", whole((6,), "mesh"), FULL[rank])
        shared = ("shared", rows(low, high), FULL[low:high])
        write_rank(path, rank, [own, shared], **options)


def test_ranks_are_merged(tmp_path):
    write_two_ranks(tmp_path)
    trace = open_trace(str(tmp_path))
    assert trace.path == tmp_path
    assert trace.incomplete == ()
    assert trace.info.ranks == (rank_info(0), rank_info(1))
    assert [i.module for i in trace.info.tensors] == ["only.0", "only.1", "shared"]
    shared = trace.info.tensors[tensor_id("shared")]
    assert [shard.rank for shard in shared.shards] == [0, 1]
    assert shared.global_shape == FULL.shape
    parts = [trace.load(shard) for shard in shared.shards]
    assert np.array_equal(np.concatenate(parts), FULL)


def test_order_is_by_sequence_not_by_arrival(tmp_path):
    with TraceWriter(tmp_path, rank_info(0, 1)) as writer:
        for sequence in (3, 1, 2):
            layout = whole(FULL.shape, "mesh")
            writer.add(record(f"m{sequence}", 0, layout, sequence), FULL)
    tensors = open_trace(tmp_path).info.tensors
    assert [id_.module for id_ in tensors] == ["m1", "m2", "m3"]


def test_the_lowest_ranks_reason_for_a_skip_counts(tmp_path):
    for rank in (1, 0):
        with TraceWriter(tmp_path, rank_info(rank)) as writer:
            writer.skip(
                SkippedRecord(
                    id=tensor_id("m"), rank=rank, sequence=0, reason=f"by {rank}"
                )
            )
    (skipped,) = open_trace(tmp_path).info.skipped.values()
    assert skipped.reason == "by 0"


def test_arrays_are_views_of_the_file_and_outlive_the_trace(tmp_path, monkeypatch):
    few = functools.partial(MappedFiles, max_files=2, resident_bytes=1)
    monkeypatch.setattr(reader, "MappedFiles", few)
    contents = [(f"m{i}", whole((6,), "mesh"), FULL[i % 4] + i) for i in range(10)]
    with TraceWriter(tmp_path, rank_info(0, 1), segment_bytes=1) as writer:
        for sequence, (module, layout, array) in enumerate(contents):
            writer.add(record(module, 0, layout, sequence), array)
    trace = open_trace(tmp_path)
    shards = [tensor.shards[0] for tensor in trace.info.tensors.values()]
    loaded = [trace.load(shard) for shard in shards]
    again = trace.load(shards[-1])
    assert np.shares_memory(again, loaded[-1])
    assert not again.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 1
    del trace
    for array, (_, _, expected) in zip(loaded, contents, strict=True):
        assert np.array_equal(array, expected)


def test_load_from_many_threads(tmp_path):
    write_two_ranks(tmp_path, segment_bytes=1)
    trace = open_trace(tmp_path)
    shards = [s for t in trace.info.tensors.values() for s in t.shards]
    expected = [trace.load(shard).tobytes() for shard in shards]
    trace, wrong = open_trace(tmp_path), []

    def load_all():
        for _ in range(100):
            if [trace.load(shard).tobytes() for shard in shards] != expected:
                wrong.append(1)

    threads = [threading.Thread(target=load_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return content


def test_an_altered_tensor_is_found_when_it_is_loaded(tmp_path):
    write_two_ranks(tmp_path)
    segment = tmp_path / "rank00001" / "segment-00000.safetensors"
    flip_last_byte(segment)
    trace = open_trace(tmp_path)
    shards = {
        (s.id.module, s.rank): s for t in trace.info.tensors.values() for s in t.shards
    }
    trace.load(shards["shared", 0])
    with pytest.raises(CorruptTraceError) as error:
        for key in (("only.1", 1), ("shared", 1)):
            trace.load(shards[key])
    lines = str(error.value).splitlines()
    assert lines[0] == "the bytes of a tensor are not those that were written"
    assert lines[1].endswith(f"rank 1, {segment}")
    assert lines[2].startswith("  expected: xxh3_64 ")
    assert lines[3].startswith("  got:      xxh3_64 ")
    unverified = open_trace(tmp_path, verify=False)
    for shard in shards.values():
        unverified.load(shard)


def test_a_shard_of_another_trace(tmp_path):
    write_two_ranks(tmp_path)
    trace = open_trace(tmp_path)
    with pytest.raises(UsageError, match="a trace that does not hold it"):
        trace.load(record("foreign", 0, whole((6,), "mesh")))
    with pytest.raises(UsageError, match="rank 7"):
        trace.load(record("only.0", 7, whole((6,), "mesh")))
    with pytest.raises(UsageError):
        trace.load(record("only.0", 0, whole((3,), "mesh")))


def test_ranks_that_disagree_about_a_shape(tmp_path):
    write_rank(tmp_path, 0, [("m", rows(0, 2), FULL[:2])])
    write_rank(tmp_path, 1, [("m", rows(2, 4, of=(8, 6)), FULL[2:])])
    with pytest.raises(LayoutError) as error:
        open_trace(tmp_path)
    assert str(error.value) == (
        "ranks disagree about the shape of a logical tensor\n"
        "  where:    step0/m/output\n"
        "  expected: the same global shape on every rank\n"
        "  got:      [4, 6] on rank 0; [8, 6] on rank 1\n"
        "  to do:    check the rule or the dims text that gives this tensor's layout"
    )


def test_a_rank_still_being_written(tmp_path):
    write_rank(tmp_path, 0, [("m", rows(0, 2), FULL[:2])])
    writer = TraceWriter(tmp_path, rank_info(1))
    with pytest.raises(IncompleteTraceError) as error:
        open_trace(tmp_path)
    assert str(error.value) == (
        "the trace is incomplete\n"
        f"  where:    {tmp_path}\n"
        "  expected: a complete.json from every recorded rank\n"
        "  got:      rank00001 is still being written, or was cut off\n"
        "  to do:    wait until the run has ended, or mend what ended it and record it "
        "again; 'ttrace show' lists what is there"
    )
    partial = open_trace(tmp_path, allow_incomplete=True)
    assert partial.incomplete == ("rank00001 is still being written, or was cut off",)
    assert len(partial.info.ranks) == 2
    writer.close()
    open_trace(tmp_path)


def test_a_complete_rank_without_its_segment_is_corrupt_in_any_mode(tmp_path):
    write_two_ranks(tmp_path)
    (tmp_path / "rank00000" / "segment-00000.safetensors").unlink()
    for allow_incomplete in (False, True):
        with pytest.raises(CorruptTraceError, match="a segment is missing"):
            open_trace(tmp_path, allow_incomplete=allow_incomplete)


def test_an_incomplete_rank_without_its_segment_is_read_up_to_it(tmp_path):
    contents = [(f"m{i}", whole((6,), "mesh"), FULL[i]) for i in range(3)]
    with pytest.raises(KeyError):
        with TraceWriter(tmp_path, rank_info(0, 1), segment_bytes=1) as writer:
            for sequence, (module, layout, array) in enumerate(contents):
                writer.add(record(module, 0, layout, sequence), array)
            raise KeyError("x")
    lost = tmp_path / "rank00000" / "segment-00001.safetensors"
    lost.unlink()
    trace = open_trace(tmp_path, allow_incomplete=True)
    assert [id_.module for id_ in trace.info.tensors] == ["m0"]
    assert trace.incomplete == (
        "rank00000: the run ended with KeyError: 'x'",
        f"a segment is missing ({lost}), the rest is left out",
    )


@pytest.mark.parametrize("file", ["manifest.json", "index.jsonl", "complete.json"])
def test_unreadable_json_names_the_file(tmp_path, file):
    write_two_ranks(tmp_path)
    path = tmp_path / "rank00001" / file
    path.write_bytes(b"\xff[[[")
    with pytest.raises(CorruptTraceError, match="not readable JSON") as error:
        open_trace(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"[]", b"[" * 100_000, b"", b"1", b"{}"])
@pytest.mark.parametrize("file", ["manifest.json", "index.jsonl", "complete.json"])
def test_other_json_is_refused(tmp_path, file, content):
    write_two_ranks(tmp_path)
    (tmp_path / "rank00001" / file).write_bytes(content)
    with pytest.raises(TraceError):
        open_trace(tmp_path)


@pytest.mark.parametrize("file", ["manifest.json", "index.jsonl"])
def test_a_consistent_change_is_found_by_its_hash(tmp_path, file):
    write_two_ranks(tmp_path)
    path = tmp_path / "rank00001" / file
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"test", b"text", 1) if file != "index.jsonl" else b""
    )
    with pytest.raises(CorruptTraceError) as error:
        open_trace(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0] == "a file of the trace was altered"
    assert lines[1] == f"  where:    {path}"
