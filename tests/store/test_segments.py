import dataclasses

import numpy as np
import pytest
import safetensors

from ttrace.errors import CorruptTraceError, TraceError
from ttrace.ir.dtypes import DTYPES
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord
from ttrace.store.segments import map_segment, plan_segment, write_segment

NAME = "segment-00000.safetensors"


def record(module, dtype, shape):
    return ShardRecord(
        id=TensorId(step=0, module=module, kind=Kind.OUTPUT),
        rank=0,
        sequence=0,
        dtype=dtype,
        layout=whole(shape, "mesh"),
    )


def random_bits(dtype, shape, seed):
    """Any bit pattern: NaN payloads, denormals, infinities, both zeros."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    target = DTYPES[dtype].numpy
    count = int(np.prod(shape)) * target.itemsize
    return rng.integers(0, 256, count, np.uint8).view(target).reshape(shape)


def write(folder, contents):
    """Writes (dtype, shape) contents; returns the plan and the arrays by id."""
    records = [record(f"m{i}", *content) for i, content in enumerate(contents)]
    arrays = {
        one.id: random_bits(one.dtype, one.layout.local_shape, seed)
        for seed, one in enumerate(records)
    }
    plan = plan_segment(NAME, records)
    write_segment(folder, plan, (arrays[id_] for id_ in plan.offsets))
    return plan, arrays


EVERY_DTYPE = [
    (name, shape) for name in DTYPES for shape in ((3, 5), (), (0, 4), (64,))
]


def test_every_dtype_has_its_exact_bytes_at_its_offset(tmp_path):
    plan, arrays = write(tmp_path, EVERY_DTYPE)
    content = map_segment(tmp_path / NAME, plan.segment)
    for id_, array in arrays.items():
        stored = content[plan.offsets[id_] :][: array.nbytes]
        assert stored.tobytes() == array.tobytes()
    assert not content.flags.writeable
    assert content.size == plan.segment.file_bytes


def test_the_safetensors_library_reads_it(tmp_path):
    """Other tools can open a trace; the library's numpy reader refuses fp8 alone."""
    contents = [c for c in EVERY_DTYPE if "float8" not in c[0] and c[0] != "bfloat16"]
    _, arrays = write(tmp_path, contents)
    with safetensors.safe_open(tmp_path / NAME, "np") as file:
        assert set(file.keys()) == set(map(str, arrays))
        for id_, array in arrays.items():
            loaded = file.get_tensor(str(id_))
            assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
            assert loaded.tobytes() == array.tobytes()


def test_the_safetensors_library_accepts_the_header_of_every_dtype(tmp_path):
    _, arrays = write(tmp_path, EVERY_DTYPE)
    parsed = dict(safetensors.deserialize((tmp_path / NAME).read_bytes()))
    for id_, array in arrays.items():
        assert parsed[str(id_)]["dtype"] == DTYPES[array.dtype.name].safetensors
        assert bytes(parsed[str(id_)]["data"]) == array.tobytes()


def test_arrays_are_aligned_and_leave_no_holes():
    contents = [("int8", (3,)), ("float64", (5,)), ("float32", (16,)), ("int16", (1,))]
    contents += [("float32", (64, 64)), ("bfloat16", (31,)), ("float32", (0,))]
    records = [record(f"m{i}", *content) for i, content in enumerate(contents)]
    plan = plan_segment(NAME, records)
    end = plan.segment.header_bytes
    by_id = {r.id: r for r in records}
    for id_, offset in plan.offsets.items():
        dtype = DTYPES[by_id[id_].dtype].numpy
        size = int(np.prod(by_id[id_].layout.local_shape)) * dtype.itemsize
        assert offset == end
        assert offset % dtype.itemsize == 0
        assert size % 64 or offset % 64 == 0
        end += size
    assert end == plan.segment.file_bytes


def test_strided_arrays_are_written_in_c_order(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(4, 6).T[::-1, ::2]
    plan = plan_segment(NAME, [record("m", "float32", array.shape)])
    write_segment(tmp_path, plan, [array])
    content = map_segment(tmp_path / NAME, plan.segment)
    (offset,) = plan.offsets.values()
    assert content[offset:].tobytes() == array.tobytes("C")


def test_a_segment_that_fails_leaves_nothing(tmp_path):
    def arrays():
        yield np.zeros(4, np.float32)
        raise OSError("disk")

    records = [record(m, "float32", (4,)) for m in "ab"]
    with pytest.raises(OSError, match="disk"):
        write_segment(tmp_path, plan_segment(NAME, records), arrays())
    assert list(tmp_path.iterdir()) == []


def test_truncated_segment(tmp_path):
    plan, _ = write(tmp_path, [("float32", (16,))])
    path = tmp_path / NAME
    size = plan.segment.file_bytes
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptTraceError) as error:
        map_segment(path, plan.segment)
    assert str(error.value) == (
        "a segment was truncated or has grown\n"
        f"  where:    {path}\n"
        f"  expected: {size} bytes\n"
        f"  got:      {size - 1} bytes\n"
        "  to do:    record the run again, or copy the trace again from where it was "
        "written"
    )


def test_missing_segment(tmp_path):
    plan, _ = write(tmp_path, [("float32", (16,))])
    (tmp_path / NAME).unlink()
    with pytest.raises(CorruptTraceError, match="a segment is missing"):
        map_segment(tmp_path / NAME, plan.segment)


def test_unreadable_segment(tmp_path):
    plan, _ = write(tmp_path, [("float32", (16,))])
    other = dataclasses.replace(plan.segment, file_bytes=tmp_path.stat().st_size)
    with pytest.raises(TraceError, match="cannot be read"):
        map_segment(tmp_path, other)


def test_altered_header(tmp_path):
    plan, _ = write(tmp_path, [("float32", (16,))])
    path = tmp_path / NAME
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptTraceError) as error:
        map_segment(path, plan.segment)
    assert "the header of a segment was altered" in str(error.value)
    assert str(path) in str(error.value)
