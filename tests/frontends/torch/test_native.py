"""What is read off a model that one process has wrapped."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import GradBucket, HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from ttrace.frontends.torch_parts import native
from ttrace.frontends.torch_parts.averaging import Averaging
from ttrace.frontends.torch_parts.native import NativeDescription
from ttrace.ir.kinds import Kind


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_is_found_around_the_module_that_the_script_gave():
    inner = nn.Linear(2, 2)
    ddp = DistributedDataParallel(inner)
    ddp.register_comm_hook(None, own_hook)
    for given in (inner, ddp):
        description = NativeDescription(given)
        with pytest.raises(ValueError, match="own_hook.*not known to average"):
            description.scale(Kind.GRAD_OUTPUT)
        assert description.scale(Kind.OUTPUT) == 1.0


def own_hook(state: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def test_a_divide_factor_is_the_factor_of_gradients_before_the_division():
    model: Any = nn.Linear(2, 2)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model, mesh=mesh)
    description = NativeDescription(model)
    assert description.scale(Kind.PARAM_GRAD) == 1.0
    model.set_gradient_divide_factor(3.0)  # also after the trace began
    assert description.scale(Kind.PARAM_GRAD) == 3.0
    assert description.scale(Kind.MAIN_GRAD) == 1.0


class Adapted(nn.Module):
    """What PEFT puts in the place of a linear."""

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer, self.lora_A = base_layer, nn.Linear(2, 1)


def fsdp2(model: nn.Module) -> Any:
    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


def fsdp1(model: nn.Module) -> Any:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def tensor_parallel(model: nn.Module) -> Any:
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    return parallelize_module(model, mesh, {"0": ColwiseParallel()})


def adapter(model: Any) -> Any:
    model[0] = Adapted(model[0])
    return model


HOWS = {
    fsdp2: "fully_shard was applied to the model after",
    fsdp1: "2 parameters of the model were replaced after the trace began (first "
    "0.weight, which is gone now), so that what each rank has of the model is not "
    "known;",
    tensor_parallel: "2 parameters of the model were replaced after the trace began "
    "(first 0.weight, which is a DTensor now)",
    adapter: "2 modules came into the model after the trace began (first 0, a "
    "Adapted), and are not observed;",
}


@pytest.mark.filterwarnings("ignore")  # of torch, of meshes of one process
@pytest.mark.parametrize("how", HOWS, ids=lambda how: how.__name__)
def test_what_is_done_to_the_model_after_the_trace_began_is_said(caplog, how):
    model = nn.Sequential(nn.Linear(2, 2))
    description = NativeDescription(model)
    wrapped = how(model)
    with caplog.at_level(logging.WARNING, logger="absl"):
        description.end_step()
        description.end_step()
    (message,) = caplog.messages
    assert message.startswith(f"ttrace: {HOWS[how]}"), message
    assert message.endswith("begin `with torch_capture.trace(...)` after it")
    del wrapped


def late_ddp(monkeypatch, ranks: tuple[int, ...]) -> NativeDescription:
    """A model of two ranks that is wrapped when its trace has begun."""
    model = nn.Sequential(nn.Linear(2, 2))
    description = NativeDescription(model, rank=0, world_size=2)
    late = Averaging(
        name="DistributedDataParallel", ranks=ranks, divisor=lambda: float(len(ranks))
    )
    monkeypatch.setattr(native, "find_averaging", lambda *_: (late,))
    return description


def test_ddp_that_is_applied_after_the_trace_began_is_known(monkeypatch, caplog):
    description = late_ddp(monkeypatch, (0, 1))
    assert description.scale(Kind.GRAD_OUTPUT) == 2
    assert description.scale(Kind.MAIN_GRAD) == 1
    with caplog.at_level(logging.WARNING, logger="absl"):
        description.end_step()
    assert caplog.messages == []


def test_late_ddp_that_numbers_its_ranks_otherwise_is_said(monkeypatch, caplog):
    description = late_ddp(monkeypatch, (1, 0))
    assert description.scale(Kind.GRAD_OUTPUT) == 1
    with caplog.at_level(logging.WARNING, logger="absl"):
        description.end_step()
    (message,) = caplog.messages
    assert message.startswith(
        "ttrace: DistributedDataParallel was applied to the model"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", HOWS, ids=lambda how: how.__name__)
def test_nothing_is_said_of_what_was_done_before(caplog, how):
    wrapped = how(nn.Sequential(nn.Linear(2, 2)))
    description = NativeDescription(wrapped)
    with caplog.at_level(logging.WARNING, logger="absl"):
        if how is not adapter:
            wrapped(torch.ones(2, 2)).sum().backward()
        description.end_step()
    assert not caplog.messages


def test_what_cannot_be_found_does_not_reach_the_training(caplog, monkeypatch):
    def fails(model: nn.Module) -> None:
        raise AttributeError("_handle")

    where = "ttrace.frontends.torch_parts.native.flat_pieces"
    monkeypatch.setattr(where, fails)
    with caplog.at_level(logging.WARNING, logger="absl"):
        description = NativeDescription(nn.Linear(2, 2))
    assert len(list(description.parameters())) == 2
    (message,) = caplog.messages
    assert "could not find flat parameters on the model: AttributeError" in message
