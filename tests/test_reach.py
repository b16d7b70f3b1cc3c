"""Traces of unusual sizes, and files that are harmed while they are compared.

What is large in earnest (10^6 shards, 4096 ranks, 2^31 elements compared) is measured
by ``tests.benchmarks.bench_scaling``.
"""

import importlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.scaling_traces import write_one_tensor
from tests.factories.traces import write_trace
from ttrace.backends.tile_table import COUNTS, SIDES, TileTable
from ttrace.compare.operands import Operand, PairPlan, Term
from ttrace.errors import TraceError
from ttrace.ir.trace import ShardRecord
from ttrace.pipeline import open_trace
from ttrace.store.reader import Trace

ttrace: Any = importlib.import_module("ttrace")  # not hidden by .typings, for pyright

BEYOND = 2**31 + 2**20 + 3
"""Elements of a tensor that 32 bits do not count."""

BACKENDS = ["cpu", "numpy", pytest.param("jax", marks=pytest.mark.jax)]


class _Harmed:
    """A trace to which something happens before a certain load."""

    def __init__(self, trace: Trace, at: int, harm: Callable[[], object]):
        self.info, self.incomplete, self.name = trace.info, trace.incomplete, trace.name
        self._trace, self._at, self._harm = trace, at, harm

    def load(self, shard: ShardRecord) -> np.ndarray:
        self._at -= 1
        if self._at == 0:
            self._harm()
        return self._trace.load(shard)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at", [1, 7, 20])
@pytest.mark.parametrize("harm", ["shrinks", "disappears"])
def test_a_segment_that_is_harmed_while_it_is_compared(
    tmp_path: Path, harm: str, at: int, backend: str
) -> None:
    tensors = {f"step0/m{n}/param/w": np.ones(9000, np.float32) for n in range(20)}
    traces = [write_trace(tmp_path / side, tensors) for side in ("a", "b")]
    (segment,) = (tmp_path / "b" / "rank00000").glob("segment-*")

    def harm_it() -> None:
        os.truncate(segment, 9000) if harm == "shrinks" else segment.unlink()

    with pytest.raises(TraceError) as error:
        ttrace.compare(traces[0], _Harmed(traces[1], at, harm_it), backend=backend)
    said = "a segment was truncated" if harm == "shrinks" else "a segment is missing"
    assert said in str(error.value) and str(segment) in str(error.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_of_one_element_and_of_none(tmp_path: Path, backend: str) -> None:
    shapes = {"none": (0,), "row": (3, 0, 2), "scalar": (), "one": (1, 1)}
    tensors: dict[str, np.ndarray] = {
        f"step0/mb0/{name}/output/0": np.full(shape, 2.0, np.float32)
        for name, shape in shapes.items()
    }
    reference = write_trace(tmp_path / "a", tensors)
    tensors["step0/mb0/one/output/0"] = np.full((1, 1), 3.0, np.float32)
    report = ttrace.compare(
        reference, write_trace(tmp_path / "b", tensors), backend=backend
    )
    told = {t.id.split("/")[2]: (t.status, t.reason, t.rel_err) for t in report.tensors}
    assert told["none"] == told["row"] == ("skipped", "it has no elements", None)
    assert told["scalar"] == ("passed", "", 0.0)
    assert told["one"][0] == "failed" and told["one"][2] == 0.5
    assert {t.max_abs_err_at for t in report.tensors if t.status == "failed"} == {
        (0, 0)
    }


def test_more_elements_than_32_bits_count(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    write_one_tensor(path, BEYOND, noise=1.0)
    (record,) = open_trace(path).info.tensors.values()
    (shard,) = record.shards
    values = open_trace(path).load(shard)
    assert values.shape == (BEYOND,) and float(values[BEYOND - 2]) == 1.125
    assert os.stat(path).st_blocks * 512 < 1 << 20  # it has room on any disk
    (block,) = shard.layout.blocks
    operand = Operand(terms=(Term(shard=shard, block=block),))
    pair = PairPlan(region=block.region, reference=operand, candidate=operand)
    assert pair.size == BEYOND
    assert pair.global_index(BEYOND - 2) == (BEYOND - 2,)


def test_sums_and_positions_of_more_elements_than_32_bits_count() -> None:
    num_rows, tile_elements = 3, 1 << 30
    maxima = {side: np.array([1.0, 2.0, 2.5]) for side in SIDES}
    table = TileTable(
        sums={side: np.full(num_rows, 4.0) for side in SIDES},
        exponents={side: np.zeros(num_rows, np.int32) for side in SIDES},
        products=np.full(num_rows, 4.0),
        maxima=maxima,
        counts={name: np.full(num_rows, tile_elements, np.int64) for name in COUNTS},
        max_difference_at=np.array([-1, -1, 5]),
        inexact=np.zeros(num_rows, bool),
    )
    (stats,) = table.reduce(np.array([0]), [BEYOND], tile_elements)
    assert (stats.count, stats.max_abs_diff) == (BEYOND, 2.5)
    assert stats.max_abs_diff_at == 2 * tile_elements + 5
    assert stats.num_unequal == 3 * tile_elements
    assert stats.reference_norm == pytest.approx(math.sqrt(12))


def test_many_names_are_told_apart_and_named(tmp_path: Path) -> None:
    """As of a file whose tensors all have a name of their own, and one of which fails.

    There are as many as several batches of a backend hold.
    """
    paths = [tmp_path / f"{side}.safetensors" for side in ("a", "b")]
    count, wrong = 9000, 5432
    for path in paths:
        header = {
            f"l{n}.w": {
                "dtype": "F32",
                "shape": [1],
                "data_offsets": [4 * n, 4 * n + 4],
            }
            for n in range(count)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        values = np.ones(count, np.float32)
        values[wrong] += path is paths[1]
        path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    report = ttrace.compare(*paths, backend="cpu")
    assert report.counts.total == count and report.counts.passed == count - 1
    (failed,) = (t for t in report.tensors if t.status == "failed")
    assert failed.id == f"step0/l{wrong}/param/w"
