"""Checkpoints that torch itself wrote, and files made to do harm."""

import os
import pickle
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.distributed.checkpoint.state_dict import get_state_dict  # noqa: E402
from torch.distributed.checkpoint.state_dict_saver import save  # noqa: E402

from tests.factories.checkpoint_files import WEIGHTS, check_weights, held_arrays  # noqa: E402
from ttrace.checkpoints.checkpoint_trace import CheckpointTrace  # noqa: E402
from ttrace.errors import CheckpointError  # noqa: E402
from ttrace.frontends.torch_parts.checkpoint_reader import (  # noqa: E402
    read_distributed,
    read_file,
)

STATE = {key: torch.from_numpy(value) for key, value in WEIGHTS.items()}


def save_distributed(state: dict, folder) -> None:
    with warnings.catch_warnings():
        # Said for every checkpoint of a single process.
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        save(state, checkpoint_id=folder)


class Harm:
    """Something that pickle would run."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.fixture
def distributed(tmp_path):
    save_distributed({"model": STATE}, tmp_path / "step")
    return tmp_path / "step"


def test_a_distributed_checkpoint_of_one_process(distributed):
    trace = CheckpointTrace(read_distributed(distributed))
    check_weights(trace)
    first = trace.info.ranks[0]
    assert first.settings == {"checkpoint_format": "torch.distributed.checkpoint"}
    assert first.versions == {"torch": torch.__version__}


def test_a_model_and_its_optimizer(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    states = get_state_dict(model, optimizer)
    save_distributed(
        dict(zip(("model", "optim"), states, strict=True)) | {"step": 3}, tmp_path
    )
    held = held_arrays(CheckpointTrace(read_distributed(tmp_path)))
    state = optimizer.state[model[0].weight]
    assert held.keys() == {
        "step0/0/param/weight",
        "step0/0/optimizer_state/weight.exp_avg",
        "step0/0/optimizer_state/weight.exp_avg_sq",
        "step0/0/optimizer_state/weight.step",
    }
    for name in ("exp_avg", "exp_avg_sq", "step"):
        found = held[f"step0/0/optimizer_state/weight.{name}"]
        np.testing.assert_array_equal(found, state[name].numpy(), strict=True)


def save_sharded(rank: int, folder: str) -> None:
    """Runs in each of two processes: a tensor sharded over both, and one on each."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    mesh = init_device_mesh("cpu", (2,))
    weight = distribute_tensor(STATE["layers.0.weight"], mesh, [Shard(0)])
    bias = distribute_tensor(STATE["layers.0.bias"], mesh, [Replicate()])
    last = distribute_tensor(STATE["layers.1.weight"], mesh, [Shard(1)])
    values = {"layers.0.weight": weight, "layers.0.bias": bias, "layers.1.weight": last}
    save({"model": values}, checkpoint_id=f"{folder}/sharded")
    dist.destroy_process_group()


def test_parts_as_two_processes_wrote_them(tmp_path):
    torch.multiprocessing.spawn(save_sharded, (str(tmp_path),), nprocs=2)
    trace = CheckpointTrace(read_distributed(tmp_path / "sharded"))
    check_weights(trace)
    counts = {str(id_): len(r.shards) for id_, r in trace.info.tensors.items()}
    assert counts == {
        "step0/layers.0/param/bias": 1,
        "step0/layers.0/param/weight": 2,
        "step0/layers.1/param/weight": 2,
    }


def test_low_precision(tmp_path):
    values = torch.linspace(-2, 2, 16)
    state = {"a": values.bfloat16(), "b": values.to(torch.float8_e4m3fn)}
    save_distributed(state, tmp_path / "step")
    torch.save(state, tmp_path / "x.pt")
    for checkpoint in (
        read_distributed(tmp_path / "step"),
        read_file(tmp_path / "x.pt"),
    ):
        held = held_arrays(CheckpointTrace(checkpoint))
        for name, tensor in state.items():
            found = held[f"step0/@root/param/{name}"]
            assert found.dtype.name == str(tensor.dtype).removeprefix("torch.")
            assert found.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


def test_dtypes_that_cannot_be_compared(tmp_path):
    state = {"w": torch.ones(2), "z": torch.ones(2, dtype=torch.complex64)}
    save_distributed(state, tmp_path / "step")
    torch.save(state, tmp_path / "x.pt")
    for checkpoint in (
        read_distributed(tmp_path / "step"),
        read_file(tmp_path / "x.pt"),
    ):
        trace = CheckpointTrace(checkpoint)
        (skipped,) = trace.info.skipped.values()
        assert skipped.reason == "dtype torch.complex64 cannot be compared"


def test_a_description_that_would_run_something(distributed, monkeypatch):
    monkeypatch.chdir(distributed)
    (distributed / ".metadata").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(CheckpointError) as error:
        read_distributed(distributed)
    assert str(error.value) == (
        "a checkpoint of torch cannot be read\n"
        f"  where:    {distributed}/.metadata\n"
        "  got:      it names posix.mkdir\n"
        "  to do:    write or copy the checkpoint again"
    )
    assert not (distributed / "harm").exists()
    pickle.loads(pickle.dumps(Harm()))  # the file would have done it
    assert (distributed / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"a": 1})])
def test_descriptions_of_another_kind(distributed, content):
    (distributed / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match="a checkpoint of torch cannot be read"):
        read_distributed(distributed)


def test_data_that_was_cut_off_or_lost(distributed):
    (file,) = distributed.glob("*.distcp")
    size = file.stat().st_size
    os.truncate(file, size - 100)
    with pytest.raises(CheckpointError) as error:
        read_distributed(distributed)
    text = str(error.value)
    assert text.startswith(
        "a file of a distributed checkpoint is missing or was cut off\n"
        f"  where:    {file}\n  expected: model.layers."
    )
    assert f"to {size}\n  got:      {size - 100} bytes\n" in text
    file.unlink()
    with pytest.raises(CheckpointError, match="got:      no such file"):
        read_distributed(distributed)


def test_data_that_was_overwritten(distributed):
    trace = CheckpointTrace(read_distributed(distributed))
    (file,) = distributed.glob("*.distcp")
    file.write_bytes(b"\0" * file.stat().st_size)
    shard = next(iter(trace.info.tensors.values())).shards[0]
    with pytest.raises(CheckpointError) as error:
        trace.load(shard)
    assert f"where:    model.layers.0.bias, {file}\n" in str(error.value)


def test_a_state_dict_in_a_file(tmp_path):
    torch.save(STATE, tmp_path / "model.pt")
    check_weights(CheckpointTrace(read_file(tmp_path / "model.pt")))
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    check_weights(CheckpointTrace(read_file(tmp_path / "old.pt")))


def test_a_training_state_in_a_file(tmp_path):
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
    }
    torch.save(value, tmp_path / "last.ckpt")
    trace = CheckpointTrace(read_file(tmp_path / "last.ckpt"))
    check_weights(
        trace,
        {name: value.detach().numpy() for name, value in model.named_parameters()},
    )
    reasons = [skipped.reason for skipped in trace.info.skipped.values()]
    assert reasons == [
        f"optimizer/state/{number}/momentum_buffer of the checkpoint: its path does "
        "not end with that of a parameter"
        for number in range(2)
    ]


@pytest.mark.parametrize(
    "value", [Harm(), torch.nn.Linear(1, 1)], ids=["harm", "model"]
)
def test_files_that_need_pickle_are_refused(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    torch.save(value, "model.pt")
    with pytest.raises(CheckpointError) as error:
        read_file(tmp_path / "model.pt")
    text = str(error.value)
    assert text.startswith(
        "a torch file needs pickle, which could run anything, and is not read\n"
        f"  where:    {tmp_path}/model.pt\n"
        "  expected: tensors in dictionaries, as in a state dict\n"
        "  got:      "
    )
    assert text.endswith(
        "  to do:    save the state dict, or convert it to safetensors"
    )
    assert not (tmp_path / "harm").exists()


def test_a_file_that_was_cut_off(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError):
        read_file(path)


def test_a_file_without_tensors(tmp_path):
    torch.save({"step": 3}, tmp_path / "step.pt")
    with pytest.raises(CheckpointError, match="there are no parameters"):
        CheckpointTrace(read_file(tmp_path / "step.pt"))
