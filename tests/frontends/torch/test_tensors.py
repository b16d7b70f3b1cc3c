"""The table of tensor types: local values and layouts, without any process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from ttrace.frontends.torch_parts import tensors
from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.local_tensor import (
    LocalTensor,
    NoLayout,
    RecordedElsewhere,
    TensorType,
)
from ttrace.frontends.torch_parts.noise import NoisePoint, gets_noise
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.frontends.torch_parts.tensors import (
    local_tensor,
    local_values,
    register_tensor_type,
    says_its_layout,
    with_values,
)
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, whole
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest

MESH = Mesh(name="own", sizes={"x": 1}, coords={"x": 0})


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """Rank 1 of two, that can say where it is and not communicate."""
    torch.distributed.init_process_group(
        "fake", rank=1, world_size=2, store=FakeStore()
    )
    yield
    torch.distributed.destroy_process_group()


def plain_layout(shape: tuple[int, ...]):
    return whole(shape, "dense")


def held(tensor: torch.Tensor) -> LocalTensor:
    answer = local_tensor(tensor, plain_layout)
    assert isinstance(answer, LocalTensor)
    return answer


def on_tp(local: torch.Tensor, placement) -> DTensor:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    return DTensor.from_local(local, mesh, [placement], run_check=False)


def session_of(
    model: nn.Module, sink: MemorySink, description: PlainDescription | None = None
) -> CaptureSession:
    session = CaptureSession(
        description or PlainDescription(model),
        RecordRequest(out=Path("unused")),
        rank=0,
        world_size=1,
        open_sink=lambda _: sink,
    )
    session.start()
    return session


@pytest.mark.parametrize("make", [torch.ones, lambda n: nn.Parameter(torch.ones(n))])
def test_a_plain_tensor_is_itself_in_the_layout_that_the_description_gives(make):
    tensor = make(3)
    answer = held(tensor)
    assert answer.values is tensor and answer.mesh is None
    assert answer.layout == whole((3,), "dense")
    assert not says_its_layout(tensor)


@pytest.mark.parametrize("answer", [NoLayout(reason="no rule"), RecordedElsewhere()])
def test_what_a_description_does_not_know_stays_unknown(answer):
    assert local_tensor(torch.ones(3), lambda shape: answer) is answer


def test_a_result_on_its_way_is_waited_for():
    tensor = AsyncCollectiveTensor(torch.arange(3.0))
    answer = held(tensor)
    assert type(answer.values) is torch.Tensor
    assert answer.values.tolist() == [0, 1, 2]
    assert answer.layout == whole((3,), "dense")
    assert type(with_values(tensor, torch.ones(3))) is torch.Tensor


@pytest.mark.usefixtures("two_ranks")
def test_a_dtensor_says_what_it_holds():
    tensor = on_tp(torch.ones(2, 3), Shard(0))
    answer = held(tensor)
    assert type(answer.values) is torch.Tensor
    assert answer.mesh == Mesh(name="tp=2", sizes={"tp": 2}, coords={"tp": 1})
    assert answer.layout.global_shape == (4, 3)
    (block,) = answer.layout.blocks
    assert (block.region.start, block.region.extent) == ((2, 0), (2, 3))
    assert says_its_layout(tensor)


@pytest.mark.usefixtures("two_ranks")
def test_a_dtensor_in_a_dtensor_that_is_on_its_way_is_read_to_the_end():
    tensor = on_tp(AsyncCollectiveTensor(torch.ones(2)), Replicate())
    assert type(local_values(tensor)) is torch.Tensor
    changed = with_values(tensor, torch.full((2,), 5.0))
    assert isinstance(changed, DTensor) and changed.placements == tensor.placements
    assert local_values(changed).tolist() == [5, 5]


@pytest.mark.usefixtures("two_ranks")
def test_a_sum_that_is_still_to_be_made_is_partial_and_other_reductions_have_none():
    assert held(on_tp(torch.ones(2), Partial())).layout.partial_axes == ("tp",)
    answer = local_tensor(on_tp(torch.ones(2), Partial("avg")), plain_layout)
    assert isinstance(answer, NoLayout)
    assert answer.reason == (
        "its placement over tp is Partial(avg), and of partial values ttrace adds up "
        "sums only; redistribute it, or give ttrace its full_tensor()"
    )


@pytest.mark.usefixtures("two_ranks")
def test_noise_moves_the_elements_of_a_dtensor_as_those_of_the_whole_tensor():
    id_ = TensorId(step=0, microbatch=0, module="m", kind=Kind.OUTPUT, slot="0")
    full = torch.rand(4, 3) + 1
    point = NoisePoint(id=id_, noise_seed=1, layout=whole((4, 3), "dense"))
    sharded = on_tp(full[2:].clone(), Shard(0))
    assert gets_noise(sharded)
    noised = point.stepped(sharded)
    assert isinstance(noised, DTensor)
    assert torch.equal(local_values(noised), point.stepped(full)[2:])


class Scaled(nn.Module):
    """Uses its input twice, and has a parameter on the mesh of it."""

    def __init__(self, factor: DTensor):
        super().__init__()
        self.factor = nn.Parameter(factor)

    def forward(self, x):
        return x * self.factor + x * 2


@pytest.mark.usefixtures("two_ranks")
def test_gradients_of_dtensors_are_added_up_and_recorded_as_what_a_rank_holds():
    model = Scaled(on_tp(torch.full((2,), 3.0), Shard(0)))
    sink = MemorySink()
    session = session_of(model, sink)
    x = on_tp(torch.ones(2), Shard(0)).requires_grad_()
    model(x).backward(on_tp(torch.tensor([1.0, 2.0]), Shard(0)))
    session.records.loss(on_tp(torch.tensor(7.0), Replicate()))
    session.close()
    values = {text: array.tolist() for text, array in sink.arrays.items()}
    assert values == {
        "step0/@root/param/factor": [3, 3],
        "step0/mb0/@root/input/0": [1, 1],
        "step0/mb0/@root/output/0": [5, 5],
        "step0/mb0/@root/grad_output/0": [1, 2],
        "step0/mb0/@root/grad_input/0": [5, 10],
        "step0/mb0/@root/param_grad/factor": [1, 2],
        "step0/mb0/@root/loss": 7,
    }
    assert not sink.skipped
    assert {record.layout.mesh for record in sink.records.values()} == {"tp=2"}


class Doubled(torch.Tensor):
    """A plug-in's tensor: half of what it stands for lies in ``stored``."""

    stored: torch.Tensor

    @staticmethod
    def __new__(cls, stored: torch.Tensor):
        tensor = torch.Tensor._make_wrapper_subclass(  # pyright: ignore
            cls, (2 * stored.shape[0],), dtype=stored.dtype
        )
        tensor.stored = stored
        return tensor

    def __tensor_flatten__(self):
        return ["stored"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"{func} would be observed")


@pytest.fixture
def registered(monkeypatch) -> None:
    monkeypatch.setattr(tensors, "_registered", {})
    register_tensor_type(
        Doubled,
        TensorType(
            values=lambda tensor: tensor.stored,
            layout=lambda tensor: (whole(tuple(tensor.stored.shape), "own"), MESH),
            like=lambda tensor, values: Doubled(values),
        ),
    )


@pytest.mark.usefixtures("registered")
def test_a_plug_in_says_what_its_tensors_hold():
    answer = held(Doubled(torch.ones(2)))
    assert answer.values.tolist() == [1, 1]
    assert (answer.layout, answer.mesh) == (whole((2,), "own"), MESH)


class Wrapping(nn.Module):
    """Has a plug-in's tensor as buffer, and returns it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x, Doubled(torch.ones(2))


def recorded(model: nn.Module, description: PlainDescription | None = None):
    sink = MemorySink()
    session = session_of(model, sink, description)
    model(torch.ones(2))
    session.close()
    return sink


@pytest.mark.usefixtures("registered")
def test_a_mesh_that_shows_up_later_is_skipped_with_the_reason():
    sink = recorded(Wrapping())
    assert sink.skipped == {
        "step0/mb0/@root/output/1": "its mesh (own) was not known when the trace was "
        "opened: no parameter is on it; begin the trace when all parameters are "
        "distributed, or slice the mesh from theirs"
    }


class Elsewhere(PlainDescription):
    """Lays activations out over a mesh that no rank states."""

    def activation_layout(self, path, module, kind, slot, local_shape):
        return whole(local_shape, "elsewhere")


def test_a_layout_over_a_mesh_that_no_rank_states_is_skipped():
    model = nn.Linear(2, 2)
    sink = recorded(model, Elsewhere(model))
    reasons = {
        text: reason for text, reason in sink.skipped.items() if "output" in text
    }
    assert reasons.keys() == {"step0/mb0/@root/output/0"}
    (reason,) = reasons.values()
    assert reason.startswith(
        "its mesh (elsewhere) was not known when the trace was ope"
    )


class OwnMesh(PlainDescription):
    def meshes(self):
        return (*super().meshes(), MESH)


@pytest.mark.usefixtures("registered")
def test_a_mesh_that_is_known_is_recorded():
    model = Wrapping()
    sink = recorded(model, OwnMesh(model))
    assert sink.records["step0/mb0/@root/output/1"].layout.mesh == "own"
    np.testing.assert_array_equal(sink.arrays["step0/mb0/@root/output/1"], [1, 1])
    assert not sink.skipped


def test_a_type_that_nobody_knows_is_skipped_with_its_name():
    sink = recorded(Wrapping())
    (reason,) = sink.skipped.values()
    assert "a tensor that wraps others (Doubled) cannot be stored" in reason


class Broken(PlainDescription):
    def activation_layout(self, path, module, kind, slot, local_shape):
        raise ZeroDivisionError("division by zero")

    def parameter_layout(self, named, kind):
        raise KeyError("tp")


def test_what_ttrace_fails_at_is_skipped_as_its_own_fault():
    model = nn.Linear(2, 2, bias=False)
    sink = recorded(model, Broken(model))
    assert sink.skipped == {
        "step0/@root/param/weight": "ttrace could not describe it: KeyError: 'tp'",
        "step0/mb0/@root/input/0": "ttrace could not describe it: ZeroDivisionError: "
        "division by zero",
        "step0/mb0/@root/output/0": "ttrace could not describe it: ZeroDivisionError: "
        "division by zero",
    }
