import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.factories.checkpoint_files import WEIGHTS, check_weights, held_arrays
from ttrace.checkpoints import safetensors_files
from ttrace.checkpoints.checkpoint_trace import CheckpointTrace
from ttrace.checkpoints.safetensors_files import read_file, read_index
from ttrace.errors import CheckpointError, TraceError
from ttrace.store import mapped_files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    return path


def write_raw(path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_one_file(file):
    trace = CheckpointTrace(read_file(file))
    check_weights(trace)
    assert [str(id_) for id_ in trace.info.tensors] == [
        "step0/layers.0/param/bias",
        "step0/layers.0/param/weight",
        "step0/layers.1/param/weight",
    ]


def test_several_files_with_an_index(tmp_path):
    weight_map = {}
    for number, (key, value) in enumerate(WEIGHTS.items()):
        name = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file({key: value, "left.over": value}, tmp_path / name)
        weight_map[key] = name
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    check_weights(CheckpointTrace(read_index(index)))


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("F32", np.float32),
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("I64", np.int64),
        ("BOOL", np.bool_),
    ],
)
def test_bits_of_every_kind_wherever_they_lie(tmp_path, code, dtype):
    """The library's numpy loader refuses fp8; odd offsets are not aligned."""
    path = tmp_path / "odd.safetensors"
    values = np.array([0, 1, 1, 0, 1, 0]).astype(dtype).reshape(2, 3)
    end = 3 + values.nbytes
    header = {
        "pad": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "w": {"dtype": code, "shape": [2, 3], "data_offsets": [3, end]},
        "none": {"dtype": code, "shape": [0, 3], "data_offsets": [end, end]},
        "one": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
    }
    write_raw(path, header, b"abc" + values.tobytes())
    held = held_arrays(CheckpointTrace(read_file(path)))
    assert held["step0/@root/param/w"].dtype == values.dtype
    assert held["step0/@root/param/w"].tobytes() == values.tobytes()
    assert held["step0/@root/param/none"].shape == (0, 3)
    assert held["step0/@root/param/one"] == ord("a")


def test_dtypes_that_cannot_be_compared_are_skipped(tmp_path):
    path = tmp_path / "scales.safetensors"
    header = {
        "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "scale": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [1, 2]},
    }
    write_raw(path, header, b"ab")
    trace = CheckpointTrace(read_file(path))
    (skipped,) = trace.info.skipped.values()
    assert str(skipped.id) == "step0/@root/param/scale"
    assert skipped.reason == "dtype F8_E8M0 cannot be compared"
    del header["w"]
    write_raw(path, header, b"ab")
    with pytest.raises(CheckpointError) as error:
        CheckpointTrace(read_file(path))
    assert str(error.value) == (
        "there are no parameters in the checkpoint\n"
        f"  where:    {path}\n"
        "  expected: tensors of a model\n"
        "  got:      step0/@root/param/scale: dtype F8_E8M0 cannot be compared\n"
        "  to do:    give the checkpoint of a model"
    )


def test_an_empty_checkpoint(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(CheckpointError, match="got:      nothing at all"):
        CheckpointTrace(read_file(tmp_path / "empty.safetensors"))


def test_a_file_that_was_cut_off(file):
    content = file.read_bytes()
    file.write_bytes(content[:-40])
    with pytest.raises(CheckpointError) as error:
        read_file(file)
    text = str(error.value)
    assert text.startswith(
        "not a safetensors file, or one that was cut off\n"
        f"  where:    {file}\n"
        "  expected: the length of a header, the header in JSON, and all of the data\n"
        f"  got:      {len(content) - 40} bytes, where layers."
    )
    assert text.endswith("  to do:    write or copy the checkpoint again")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "0 bytes, with a header said to have 0"),
        (b"x" * 100, "100 bytes, with a header said to have 8680820740569200760"),
        (b"\3\0\0\0\0\0\0\0abc", "a header that is not JSON"),
        (b"\2\0\0\0\0\0\0\0[]", "a header that is not an object"),
        (b"\x08\0\0\0\0\0\0\0" + b'{"a":{}}', "a header that makes no sense"),
    ],
)
def test_files_of_another_kind(tmp_path, content, got):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_file(path)
    assert got in str(error.value)


def test_a_tensor_with_too_few_bytes(tmp_path):
    path = tmp_path / "short.safetensors"
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}
    write_raw(path, {"w": entry}, b"abcd")
    with pytest.raises(CheckpointError, match="4 bytes for w, which needs 8"):
        read_file(path)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ("[]", "not the index of a checkpoint"),
        ('{"weight_map": 3}', "not the index of a checkpoint"),
        ('{"weight_map": {"w": "../w.safetensors"}}', "outside of its own folder"),
        ('{"weight_map": {"w": "gone.safetensors"}}', "is missing"),
        (
            '{"weight_map": {"w": "model.safetensors"}}',
            "lacks a tensor that the index places there\n"
            "  where:    {folder}/model.safetensors\n"
            "  expected: w\n"
            "  got:      3 other tensors",
        ),
    ],
)
def test_indexes_that_make_no_sense(file, index, error):
    path = file.parent / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(CheckpointError) as raised:
        read_index(path)
    assert error.replace("{folder}", str(file.parent)) in str(raised.value)


def test_a_file_is_mapped_once_for_all_of_its_tensors(tmp_path, monkeypatch):
    opened = []

    def map_file(path, num_bytes):
        opened.append(path)
        return mapped_files.map_file(path, num_bytes)

    monkeypatch.setattr(safetensors_files, "map_file", map_file)
    path = tmp_path / "many.safetensors"
    weights = {f"layers.{i}.w": np.full(2, i, np.float32) for i in range(300)}
    save_file(weights, path)
    held = held_arrays(CheckpointTrace(read_file(path)))
    for i in range(300):
        np.testing.assert_array_equal(held[f"step0/layers.{i}/param/w"], i)
    assert opened == [path]


def test_a_file_that_shrank_after_its_header_was_read(file):
    trace = CheckpointTrace(read_file(file))
    file.write_bytes(file.read_bytes()[:-4])
    (record, *_) = trace.info.tensors.values()
    with pytest.raises(TraceError, match="has become shorter") as error:
        trace.load(record.shards[0])
    assert str(file) in str(error.value)
