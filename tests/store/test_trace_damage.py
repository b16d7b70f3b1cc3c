"""What a trace is worth after a crash or a damaged file: exact, or an error."""

import os
import random
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.paths import ROOT
from ttrace.errors import CorruptTraceError, IncompleteTraceError, TtraceError
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord
from ttrace.store.reader import open_trace
from ttrace.store.writer import TraceWriter

NUM_RECORDS = 60
DTYPES = ("float32", "bfloat16", "float8_e4m3fn", "int64", "bool")


def array_of(number):
    """The values of the nth record, of another dtype and size each."""
    rng = np.random.default_rng(number)
    size = int(rng.integers(0, 300))
    return rng.integers(0, 2, size).astype(dtype_named(DTYPES[number % 5]).numpy)


def tensor_id(number):
    return TensorId(step=0, module=f"m{number}", kind=Kind.OUTPUT)


def write(path, *, ranks=(0,), num_records=NUM_RECORDS):
    for rank in ranks:
        info = RankInfo(
            run_id="run",
            rank=rank,
            world_size=len(ranks),
            recorded_ranks=ranks,
            framework="test",
            versions={"numpy": "2"},
        )
        with TraceWriter(path, info, segment_bytes=8000) as writer:
            for number in range(num_records):
                array = array_of(number)
                record = ShardRecord(
                    id=tensor_id(number),
                    rank=rank,
                    sequence=number,
                    dtype=array.dtype.name,
                    layout=whole(array.shape, "mesh"),
                )
                writer.add(record, array)
            writer.skip(
                SkippedRecord(
                    id=tensor_id(num_records),
                    rank=rank,
                    sequence=num_records,
                    reason="no rule",
                )
            )


def load_exactly(trace):
    """Loads everything, and fails where anything is not what was written."""
    for id_, tensor in trace.info.tensors.items():
        expected = array_of(int(id_.module[1:]))
        for shard in tensor.shards:
            loaded = trace.load(shard)
            assert (loaded.dtype, loaded.shape) == (expected.dtype, expected.shape)
            assert loaded.tobytes() == expected.tobytes()
    return len(trace.info.tensors)


def check_after_crash(path):
    """Returns the number of tensors that survived, and whether it is complete."""
    if not (path / "rank00000" / "manifest.json").exists():
        with pytest.raises(TtraceError):
            open_trace(path, allow_incomplete=True)
        return 0, False
    try:
        complete = open_trace(path)
    except IncompleteTraceError:
        partial = open_trace(path, allow_incomplete=True)
        assert partial.incomplete
        return load_exactly(partial), False
    assert load_exactly(complete) == NUM_RECORDS
    assert len(complete.info.skipped) == 1
    return NUM_RECORDS, True


def test_a_crash_before_any_system_call_that_counts(tmp_path, monkeypatch):
    """Copies the trace before every sync and rename, as a crash would leave it."""
    trace, copies = tmp_path / "trace", []

    def crash_before(real):
        def call(*args):
            copies.append(tmp_path / f"crash{len(copies)}")
            shutil.copytree(trace, copies[-1])
            return real(*args)

        return call

    monkeypatch.setattr(os, "fsync", crash_before(os.fsync))
    monkeypatch.setattr(os, "replace", crash_before(os.replace))
    write(trace)
    monkeypatch.undo()
    survivors = [check_after_crash(copy) for copy in copies]
    assert len(copies) > 20
    assert survivors == sorted(survivors), "later crashes keep more"
    assert survivors[0] == (0, False)
    assert survivors[-1] == (NUM_RECORDS, True)


KILLER = """
    import itertools, os, random, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_trace_damage import write

    random.seed(0)
    for kill in range(int(sys.argv[3])):
        child = os.fork()
        if not child:
            for number in itertools.count():
                write(Path(sys.argv[2]) / f"kill{kill}" / str(number))
        time.sleep(random.uniform(0.005, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
"""
"""Kills processes that write one trace after the other without end."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_sigkill_at_random_moments(tmp_path):
    num_kills = 60
    script, here = textwrap.dedent(KILLER), ROOT / "tests" / "store"
    subprocess.run(
        [sys.executable, "-c", script, here, tmp_path, str(num_kills)],
        check=True,
        timeout=60,
    )
    partial = []
    for kill in tmp_path.iterdir():
        traces = sorted(kill.iterdir(), key=lambda path: int(path.name))
        results = [check_after_crash(path) for path in traces]
        assert all(result == (NUM_RECORDS, True) for result in results[:-1])
        partial += [survivors for survivors, complete in results[-1:] if not complete]
    assert len(partial) >= num_kills // 3, "hardly a kill came while writing"
    assert len(set(partial)) >= 3, "all kills came at the same point"


@pytest.fixture(scope="module")
def small_trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "trace"
    write(path, ranks=(0, 1), num_records=12)
    return path


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def open_and_load(path):
    trace = open_trace(path)
    assert load_exactly(trace) == 12


def damage(path, change):
    """Changes a file, expects an error on reading, and puts the file back."""
    good = path.read_bytes()
    bad = change(good)
    assert bad != good
    path.write_bytes(bad)
    try:
        with pytest.raises(TtraceError):
            open_and_load(path.parent.parent)
    except BaseException:
        print(f"survived in {path}: {len(good)} bytes to {len(bad)}")
        raise
    finally:
        path.write_bytes(good)


def test_the_undamaged_trace_is_fine(small_trace):
    open_and_load(small_trace)
    assert len(files_of(small_trace)) > 8


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_bit_anywhere_is_an_error(small_trace, seed):
    rng = random.Random(seed)
    for file in files_of(small_trace):
        size = file.stat().st_size
        for at in rng.sample(range(size), min(size, 60)):
            bit = 1 << rng.randrange(8)

            def flip(content, at=at, bit=bit):
                changed = bytearray(content)
                changed[at] ^= bit
                return bytes(changed)

            damage(file, flip)


def test_a_flipped_bit_at_every_byte_of_the_mark_of_completion(small_trace):
    """No hash covers it: it must be the text that ttrace writes, to the byte."""
    file = small_trace / "rank00001" / "complete.json"
    for at in range(file.stat().st_size):
        for bit in (1, 32):

            def flip(content, at=at, bit=bit):
                changed = bytearray(content)
                changed[at] ^= bit
                return bytes(changed)

            damage(file, flip)


def test_truncation_is_an_error(small_trace):
    rng = random.Random(0)
    for file in files_of(small_trace):
        size = file.stat().st_size
        for length in {0, 1, size - 1, *rng.sample(range(size), min(size, 25))}:
            damage(file, lambda content, length=length: content[:length])


def test_growth_is_an_error(small_trace):
    for file in files_of(small_trace):
        damage(file, lambda content: content + b"\n")
        damage(file, lambda content: content + content)


def test_a_missing_file_is_an_error(small_trace):
    for file in files_of(small_trace):
        good = file.read_bytes()
        file.unlink()
        with pytest.raises(TtraceError):
            open_and_load(small_trace)
        file.write_bytes(good)


def test_swapped_segments_are_an_error(small_trace):
    first, second, *_ = sorted((small_trace / "rank00000").glob("*.safetensors"))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    with pytest.raises(CorruptTraceError):
        open_and_load(small_trace)
    first.write_bytes(contents[0])
    second.write_bytes(contents[1])


def test_a_rank_folder_of_the_same_shape_is_an_error(small_trace, tmp_path):
    """The completion of one rank does not vouch for the files of another."""
    copy = tmp_path / "copy"
    shutil.copytree(small_trace, copy)
    for name in ("index.jsonl", "complete.json"):
        shutil.copy(copy / "rank00000" / name, copy / "rank00001" / name)
    with pytest.raises(TtraceError):
        open_and_load(copy)
