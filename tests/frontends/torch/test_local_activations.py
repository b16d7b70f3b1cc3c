"""Layouts of plain tensors between tensor-parallel styles, on a mesh of one rank."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from ttrace.frontends.torch_parts.local_activations import LocalActivations
from ttrace.frontends.torch_parts.local_tensor import Answer, LocalTensor, NoLayout
from ttrace.frontends.torch_parts.names import canonical_modules
from ttrace.frontends.torch_parts.parallel_styles import style_of
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh


class Core(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.act = nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU()
        self.core, self.down = Core(), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.core(self.act(self.up(self.norm(x)))))


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    dist.destroy_process_group()


def plan() -> dict[str, ParallelStyle]:
    return {"up": ColwiseParallel(), "down": RowwiseParallel()}


def answers(model: nn.Module, sizes: dict[str, int] | None = None) -> dict[str, Answer]:
    """What is said of each module's output while the model runs."""
    modules = list(canonical_modules(model))
    sizes = sizes or {"tp": 1}
    ranks = Mesh(name="ranks", sizes=sizes, coords=dict.fromkeys(sizes, 0))
    layouts = LocalActivations(modules, ranks, model_axes=tuple(sizes))
    layouts.attach()
    found: dict[str, Answer] = {}
    for path, module in modules:

        def hook(module, args, output, path=path):
            found[path] = layouts.answer(path, module, Kind.OUTPUT, "0", output)

        module.register_forward_hook(hook)
    model(torch.randn(2, 3, 4))
    layouts.detach()
    return found


def test_layouts_follow_styles_tensors_and_elementwise_modules(mesh):
    model = Model()
    parallelize_module(
        model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()}
    )
    found = answers(model)
    meshes = {
        path: answer.layout.mesh
        for path, answer in found.items()
        if isinstance(answer, LocalTensor)
    }
    styled = "tp=1"  # told by the mesh of the style, the others by that of all ranks
    assert meshes == {
        "norm": "ranks", "up": styled, "act": styled, "down": styled, "@root": "ranks"
    }  # fmt: skip


def test_what_nothing_tells_is_skipped_with_the_text_to_write(mesh):
    model = Model()
    parallelize_module(
        model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()}
    )
    core = answers(model)["core"]
    assert isinstance(core, NoLayout)
    assert core.reason.startswith("nothing says what part of a tensor this plain one")
    assert "dims={'core/output/0': 'b s f[tp]'}" in core.reason


@pytest.mark.parametrize("sizes", [{"tp": 2}, {"dp": 1, "tp": 4}])
def test_what_nothing_tells_is_recorded_rank_by_rank(mesh, sizes):
    model = Model()
    parallelize_module(model, mesh, plan())
    core = answers(model, sizes)["core"]
    assert isinstance(core, LocalTensor)
    assert core.layout.device_axes == ("tp",)
    assert core.layout.global_shape == (sizes["tp"], 2, 3, 8)
    assert tuple(core.values.shape) == core.layout.local_shape == (1, 2, 3, 8)
    assert "dims={'core/output/0': 'b s f[tp]'}" in core.layout.unknown_reason
    assert not core.values.requires_grad


def test_what_is_taken_for_whole_outside_is_recorded_as_assumed(mesh):
    """A tensor of the inside may leave a stretch too, such as attention weights."""
    model = Model()
    parallelize_module(model, mesh, plan())
    found = answers(model, {"tp": 2})
    root = found["@root"]
    assert isinstance(root, LocalTensor)
    assert root.layout.assumed_axes == ("tp",)
    assert root.layout.local_shape == root.layout.global_shape == (2, 3, 4)
    assert "dims={'@root/output/0': 'b s f[tp]'}" in root.layout.unknown_reason
    down = found["down"]  # of which its style tells
    assert isinstance(down, LocalTensor) and not down.layout.assumed_axes


def test_along_several_axes_it_is_skipped(mesh):
    """No shape says which of them divides it."""
    model = Model()
    parallelize_module(model, mesh, plan())
    assert isinstance(answers(model, {"tp": 2, "ep": 2})["core"], NoLayout)


def test_gradients_are_recorded_like_what_they_are_of(mesh):
    model = Model()
    parallelize_module(model, mesh, plan())
    ranks = Mesh(name="ranks", sizes={"tp": 2}, coords={"tp": 1})
    layouts = LocalActivations(
        list(canonical_modules(model)), ranks, model_axes=("tp",)
    )
    layouts.attach()
    found: list[Answer] = []

    def hook(module, args, output):
        layouts.answer("core", module, Kind.OUTPUT, "0", output)
        output.register_hook(
            lambda gradient: found.append(
                layouts.answer("core", module, Kind.GRAD_OUTPUT, "0", gradient)
            )
        )

    model.core.register_forward_hook(hook)
    model(torch.randn(2, 3, 4)).sum().backward()
    layouts.detach()
    (gradient,) = found
    assert isinstance(gradient, LocalTensor)
    assert gradient.layout.blocks[0].region.start == (1, 0, 0, 0)


def test_what_no_trace_can_hold_is_not_said_to_be_of_a_rank(mesh):
    model = Model()
    parallelize_module(model, mesh, plan())
    ranks = Mesh(name="ranks", sizes={"tp": 2}, coords={"tp": 0})
    layouts = LocalActivations(
        list(canonical_modules(model)), ranks, model_axes=("tp",)
    )
    layouts._open.add("")  # between two styles
    for tensor in (torch.eye(3).to_sparse(), torch.tensor(1.0)):
        answer = layouts.answer("core", model.core, Kind.OUTPUT, "0", tensor)
        assert isinstance(answer, NoLayout)


def test_a_style_that_is_not_understood_is_named(mesh):
    class Own(ColwiseParallel):
        @staticmethod
        def _prepare_output_fn(
            output_layouts, use_local_output, mod, outputs, device_mesh
        ):
            return outputs.to_local()

    model = Model()
    parallelize_module(model, mesh, {"up": Own(), "down": RowwiseParallel()})
    norm = answers(model)["norm"]
    assert isinstance(norm, NoLayout)
    assert "does not understand (" in norm.reason
    assert "Own._prepare_output_fn on up)" in norm.reason


def test_without_a_style_nothing_is_taken_for_whole(mesh):
    found = answers(Model())
    assert all(isinstance(answer, NoLayout) for answer in found.values())


@pytest.mark.parametrize(
    ("style", "given", "returned"),
    [
        (ColwiseParallel(), (Replicate(),), (Shard(-1),)),
        (RowwiseParallel(), (Shard(-1),), (Replicate(),)),
        (SequenceParallel(), (Shard(1),), (Shard(1),)),
    ],
)
def test_styles_are_read_from_the_hooks(mesh, style, given, returned):
    model = nn.Sequential(
        nn.LayerNorm(4) if isinstance(style, SequenceParallel) else nn.Linear(4, 4)
    )
    assert style_of(model[0]) is None
    parallelize_module(model, mesh, {"0": style})
    read = style_of(model[0])
    assert read is not None and not read.not_understood
    assert (read.given, read.returned) == (given, returned)
    assert read.returns_local is style.use_local_output


def test_what_a_module_is_prepared_to_take_is_read(mesh):
    model = nn.Sequential(nn.Linear(4, 4))
    style = PrepareModuleInput(
        input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
    )
    parallelize_module(model, mesh, {"0": style})
    read = style_of(model[0])
    assert read is not None
    assert (read.given, read.taken) == ((Shard(1),), (Replicate(),))
