"""What a path is taken for, and checkpoints in place of traces on the command line."""

import importlib.util
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.factories.checkpoint_files import WEIGHTS, check_weights
from tests.factories.traces import write_trace
from ttrace.checkpoints import opening
from ttrace.checkpoints.checkpoint_trace import CheckpointTrace
from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.errors import CheckpointError, MissingExtraError, TraceNotFoundError


def save(path, weights=WEIGHTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path


def params(weights=WEIGHTS) -> dict[str, np.ndarray]:
    """The same as a run records them."""
    names = {key: key.rpartition(".") for key in weights}
    return {
        f"step0/{module}/param/{slot}": weights[key]
        for key, (module, _, slot) in names.items()
    }


def test_a_file_and_its_folder(tmp_path):
    file = save(tmp_path / "model.safetensors")
    check_weights(open_trace_or_checkpoint(file))
    check_weights(open_trace_or_checkpoint(str(tmp_path)))
    save(tmp_path / "adapter.safetensors", {"x": np.ones(1)})
    check_weights(open_trace_or_checkpoint(tmp_path))


def test_an_index_and_its_folder(tmp_path):
    save(tmp_path / "model-00001-of-00001.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    name = "model-00001-of-00001.safetensors"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(WEIGHTS, name)}))
    check_weights(open_trace_or_checkpoint(index))
    check_weights(open_trace_or_checkpoint(tmp_path))


def test_several_files_without_an_index(tmp_path):
    save(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError) as error:
        open_trace_or_checkpoint(tmp_path)
    assert str(error.value) == (
        "the folder holds several checkpoints, or one without its index\n"
        f"  where:    {tmp_path}\n"
        "  expected: one file, or one that ends in .safetensors.index.json\n"
        "  got:      a.safetensors, b.safetensors\n"
        "  to do:    give the file or the index itself"
    )


def test_traces_stay_traces(tmp_path):
    write_trace(tmp_path / "trace", params())
    trace = open_trace_or_checkpoint(tmp_path / "trace")
    assert not isinstance(trace, CheckpointTrace)
    check_weights(trace)
    with pytest.raises(TraceNotFoundError, match="no such folder"):
        open_trace_or_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceNotFoundError, match="an empty folder"):
        open_trace_or_checkpoint(tmp_path / "empty")


def test_files_of_no_known_kind(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"HDF")
    with pytest.raises(CheckpointError) as error:
        open_trace_or_checkpoint(path)
    assert str(error.value) == (
        "this file is not a checkpoint that can be read as a trace\n"
        f"  where:    {path}\n"
        "  expected: a name that ends in .safetensors, .safetensors.index.json or "
        ".bin, .ckpt, .pt, .pth; or a folder: of a trace, of safetensors files, of "
        "torch.distributed.checkpoint or of Orbax\n"
        "  got:      model.h5\n"
        "  to do:    give the folder of a trace, or convert a checkpoint, for example "
        "to safetensors"
    )


def test_folders_of_torch_files(tmp_path):
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is not read as a whole"):
        open_trace_or_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("marker", "reader", "package", "extra"),
    [
        (".metadata", "torch distributed checkpoint", "torch", "torch"),
        ("_METADATA", "Orbax checkpoint", "tensorstore", "flax"),
        ("5/_CHECKPOINT_METADATA", "Orbax checkpoint", "tensorstore", "flax"),
        ("model.pt", "torch file", "torch", "torch"),
    ],
)
def test_packages_that_are_not_installed(
    tmp_path, monkeypatch, marker, reader, package, extra
):
    file = tmp_path / marker
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"{}")
    path = file if file.suffix == ".pt" else tmp_path
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        opening.importlib.util,
        "find_spec",
        lambda name: None if name == package else find_spec(name),
    )
    with pytest.raises(MissingExtraError) as error:
        open_trace_or_checkpoint(path)
    assert str(error.value) == (
        f"a {reader} needs {package}, which is not installed\n"
        f"  where:    {path}\n"
        f"  to do:    pip install ttrace[{extra}]"
    )


def test_readers_beside_the_core(tmp_path):
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(value) for key, value in WEIGHTS.items()}
    torch.save(state, tmp_path / "model.pt")
    check_weights(open_trace_or_checkpoint(tmp_path / "model.pt"))
    (tmp_path / "model.pt").rename(tmp_path / "model")  # known by its content
    check_weights(open_trace_or_checkpoint(tmp_path / "model"))


# The command line.


def test_equal_checkpoints_pass(tmp_path, ttrace):
    torch = pytest.importorskip("torch")
    save(tmp_path / "a" / "model.safetensors")
    state = {key: torch.from_numpy(value) for key, value in WEIGHTS.items()}
    torch.save(state, tmp_path / "b.pt")
    answer = ttrace("compare", tmp_path / "a", tmp_path / "b.pt", "--backend", "numpy")
    assert answer.code == 0, answer.out + answer.err
    assert "All 3 compared tensors agree" in answer.out


def test_checkpoints_that_differ_have_diverged(tmp_path, ttrace):
    """No run was given them: this is no difference of set-up."""
    save(tmp_path / "a.safetensors")
    changed = WEIGHTS | {"layers.0.bias": WEIGHTS["layers.0.bias"] + np.float32(0.01)}
    save(tmp_path / "b.safetensors", changed)
    out = tmp_path / "report.json"
    answer = ttrace(
        "compare",
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
        *("--backend", "numpy", "--json", out),
    )
    assert answer.code == 1, answer.out + answer.err
    report = json.loads(out.read_text())
    assert report["verdict"] == "diverged"
    assert report["first_divergence"]["id"] == "step0/layers.0/param/bias"
    assert report["setup"]["tensors"] == []
    assert report["setup"]["reference"]["settings"] == {
        "checkpoint_format": "safetensors"
    }


def test_a_checkpoint_that_lacks_a_tensor(tmp_path, ttrace):
    save(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors", dict(list(WEIGHTS.items())[1:]))
    files = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    answer = ttrace("compare", *files, "--backend", "numpy")
    assert answer.code == 1 and "1 unmatched" in answer.out


def test_a_run_and_the_checkpoint_that_it_started_from(tmp_path, ttrace):
    tensors = params() | {"step0/mb0/layers.0/output/0": np.ones(3, np.float32)}
    write_trace(tmp_path / "run", tensors)
    save(tmp_path / "a.safetensors")
    answer = ttrace(
        "compare", tmp_path / "a.safetensors", tmp_path / "run", "--backend", "numpy"
    )
    assert answer.code == 0, answer.out + answer.err
    assert "All 3 compared tensors agree" in answer.out
    other = {key: value + np.float32(1) for key, value in WEIGHTS.items()}
    save(tmp_path / "b.safetensors", other)
    answer = ttrace(
        "compare", tmp_path / "b.safetensors", tmp_path / "run", "--backend", "numpy"
    )
    assert answer.code == 2 and "Set-up differs" in answer.out


def test_show(tmp_path, ttrace):
    answer = ttrace("show", save(tmp_path / "a.safetensors"))
    assert answer.code == 0
    assert "step0/layers.1/param/weight" in answer.out
    assert "checkpoint_format safetensors" in answer.out


def test_errors_end_with_2(tmp_path, ttrace):
    (tmp_path / "a.safetensors").write_bytes(b"")
    answer = ttrace("compare", tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    assert answer.code == 2 and "not a safetensors file" in answer.err
