"""Shards put together from recorded ones, as they are loaded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import MemoryTrace, Tensor, memory_trace
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace_source import TraceSource
from ttrace.mapping import mapped_trace
from ttrace.mapping.apply import map_traces
from ttrace.mapping.map_file import parse_map

FULL = np.arange(48, dtype=np.float32).reshape(8, 6)
TEXT = """
[[tensor]]
reference = "a.{i}/{kind}/w"
candidate = "b/{kind}/w"
transform = "(i x) y -> y x"
sizes = { x = 4 }
"""


class Counting(MemoryTrace):
    """Counts how often a shard is read."""

    num_loads = 0

    def load(self, shard):
        self.num_loads += 1
        return super().load(shard)


@pytest.fixture
def traces() -> tuple[Counting, TraceSource]:
    """A trace of one tensor over two ranks, and its view as two tensors."""
    return make_traces()


def make_traces() -> tuple[Counting, TraceSource]:
    reference = memory_trace(
        {f"step0/a.{i}/param/w": FULL[4 * i : 4 * i + 4].T for i in range(2)}
    )
    tensor = Tensor(full=FULL, dims="x[tp:zigzag] y")
    plain = memory_trace({"step0/b/param/w": tensor}, {"tp": 2})
    counting = Counting(plain.info, plain.arrays)
    _, mapped = map_traces(parse_map(TEXT, Path("m.toml")), reference, counting)
    return counting, mapped


def test_each_rank_holds_its_part_of_each_tensor(traces):
    _, mapped = traces
    assert [str(tensor_id) for tensor_id in mapped.info.tensors] == [
        "step0/a.0/param/w",
        "step0/a.1/param/w",
    ]
    for i, record in enumerate(mapped.info.tensors.values()):
        assert record.global_shape == (6, 4)
        whole = np.full((6, 4), np.nan, np.float32)
        for shard in record.shards:
            local = mapped.load(shard)
            assert local.shape == shard.layout.local_shape
            for block in shard.layout.blocks:
                where = tuple(map(slice, block.region.start, block.region.stop))
                if shard.layout.is_flat:
                    (start,) = block.local_start
                    values = local[start : start + block.region.size]
                else:
                    values = local
                whole[where] = values.reshape(block.region.extent)
        np.testing.assert_array_equal(whole, FULL[4 * i : 4 * i + 4].T)


def test_a_shard_is_rearranged_once(traces):
    counting, mapped = traces
    record = mapped.info.tensors[parse_tensor_id("step0/a.0/param/w")]
    first = mapped.load(record.shards[0])
    num_loads = counting.num_loads
    assert mapped.load(record.shards[0]) is first
    assert counting.num_loads == num_loads


def test_little_is_kept(monkeypatch):
    monkeypatch.setattr(mapped_trace, "KEPT_BYTES", 1)
    counting, mapped = make_traces()
    shards = [s for r in mapped.info.tensors.values() for s in r.shards]
    for shard in shards:
        mapped.load(shard)
    num_loads = counting.num_loads
    mapped.load(shards[-1])
    assert counting.num_loads == num_loads
    mapped.load(shards[0])
    assert counting.num_loads > num_loads


def test_the_values_of_devices_are_renamed_only():
    """A transform speaks of the dims of a tensor, which are not known."""

    def stacked(mesh):
        layout = parse_dims("x[tp] y").lower(FULL.shape, mesh)
        return replace(layout, device_axes=("tp",))

    tensor = Tensor(full=FULL, dims=stacked)
    candidate = memory_trace({"step0/b/param/w": tensor}, {"tp": 8})
    reference = memory_trace({"step0/a.0/param/w": FULL[0]})

    def mapped(transform):
        text = (
            '[[tensor]]\nreference = "a.0/{kind}/w"\ncandidate = "b/{kind}/w"\n'
            + transform
        )
        map_file = parse_map(text, Path("m.toml"))
        return map_traces(map_file, reference, candidate)[1].info

    id_ = parse_tensor_id("step0/a.0/param/w")
    (shard, *_) = mapped("").tensors[id_].shards
    assert shard.layout.device_axes == ("tp",)
    info = mapped('transform = "x y -> y x"\n')
    assert id_ not in info.tensors
    assert info.skipped[id_].reason == (
        "a map cannot rearrange it: recorded device by device over tp inside a "
        "shard_map in one of the runs: say with dims={...} or ttrace.tap(spec=...) "
        "how the devices' values make up the tensor"
    )
