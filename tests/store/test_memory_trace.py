"""Traces in memory: what sinks took comes back, compares, and is as if from disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import (
    Tensor,
    memory_trace,
    rank_infos,
    record_tensors,
    write_trace,
)
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import LayoutError, UsageError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import RankInfo, SkippedRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.pipeline import compare_traces
from ttrace.recording.memory_sink import MemorySink
from ttrace.report.model import Report
from ttrace.store.memory_trace import MemoryTrace

FULL = np.arange(24, dtype=np.float32).reshape(4, 6)
TENSORS = {
    "step0/mb0/a/output/0": Tensor(full=FULL, dims="x[tp] y"),
    "step0/a/main_grad/w": Tensor(full=FULL + 1, dims="x y partial[tp]"),
    "step0/b/main_grad/w": Tensor(full=FULL, holders=(1,)),
}
SIZES = {"tp": 2}
SKIPPED = {"step0/mb0/c/output/0": "no layout rule"}


def sinks() -> list[tuple[MemorySink, RankInfo]]:
    """What two ranks recorded."""
    result = []
    for info in rank_infos(SIZES):
        sink = MemorySink()
        record_tensors(sink, TENSORS, info)
        if info.rank == 0:
            for text, reason in SKIPPED.items():
                sink.skip(
                    SkippedRecord(
                        id=parse_tensor_id(text),
                        rank=0,
                        sequence=len(TENSORS),
                        reason=reason,
                    )
                )
        result.append((sink, info))
    return result


def from_sinks(name: str = "in memory") -> MemoryTrace:
    return MemoryTrace.of_ranks(
        [(sink.rank_records(info), sink.arrays) for sink, info in sinks()], name=name
    )


def values(source: TraceSource) -> dict[tuple[str, int], list]:
    return {
        (str(shard.id), shard.rank): source.load(shard).tolist()
        for record in source.info.tensors.values()
        for shard in record.shards
    }


def test_what_sinks_took_is_what_a_trace_on_disk_holds(tmp_path: Path):
    stored = write_trace(tmp_path / "trace", TENSORS, SIZES, skipped=SKIPPED)
    trace = from_sinks()
    assert trace.info.tensors == stored.info.tensors
    assert list(trace.info.tensors) == list(stored.info.tensors)
    assert trace.info.ranks == stored.info.ranks
    assert [(str(i), r.reason) for i, r in trace.info.skipped.items()] == [
        ("step0/mb0/c/output/0", "no layout rule")
    ]
    assert values(trace) == values(stored)
    assert trace.incomplete == stored.incomplete == ()


def compare(reference: TraceSource, candidate: TraceSource) -> Report:
    return compare_traces(
        reference, candidate, NumpyBackend(), allow=("*/main_grad/*",)
    )


def test_it_compares_like_any_other():
    reference = memory_trace({"step0/mb0/a/output/0": FULL})
    changed = from_sinks("candidate in memory")
    report = compare_traces(
        reference, changed, NumpyBackend(), allow=("*/main_grad/*",)
    )
    assert report.counts.passed == 1
    assert report.setup.candidate.path == "candidate in memory"
    changed.arrays[1, "step0/mb0/a/output/0"] = FULL[2:] * 2
    report = compare_traces(
        reference, changed, NumpyBackend(), allow=("*/main_grad/*",)
    )
    assert report.counts.failed == 1


def test_a_shard_of_another_trace():
    trace = from_sinks()
    shard = trace.info.tensors[parse_tensor_id("step0/b/main_grad/w")].shards[0]
    np.testing.assert_array_equal(trace.load(shard), FULL)
    with pytest.raises(UsageError) as error:
        trace.load(replace(shard, rank=0))
    assert str(error.value) == (
        "a shard was looked up in a trace that does not hold it\n"
        "  where:    in memory\n"
        "  got:      step0/b/main_grad/w, rank 0\n"
        "  to do:    take the shards from the info of the same trace"
    )


def test_ranks_must_agree_about_shapes():
    parts = [sink.rank_records(info) for sink, info in sinks()]
    layout = replace(parts[1].shards[0].layout, global_shape=(5, 6))
    shards = (replace(parts[1].shards[0], layout=layout), *parts[1].shards[1:])
    parts[1] = replace(parts[1], shards=shards)
    with pytest.raises(LayoutError, match="ranks disagree"):
        MemoryTrace.of_ranks([(part, {}) for part in parts])
