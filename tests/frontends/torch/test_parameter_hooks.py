import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ttrace.frontends.torch_parts.description import (
    NamedParameter,
    NoLayout,
    PlainDescription,
)
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import ShardLayout
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest


@contextlib.contextmanager
def recording(
    model: nn.Module, description: PlainDescription | None = None, **filters
) -> Iterator[tuple[CaptureSession, MemorySink]]:
    sink = MemorySink()
    capture = CaptureFilter(kinds=frozenset({Kind.PARAM_GRAD}), **filters)
    session = CaptureSession(
        description or PlainDescription(model),
        RecordRequest(out=Path("unused"), capture=capture),
        rank=0,
        world_size=1,
        open_sink=lambda _: sink,
    )
    session.start()
    yield session, sink
    session.close()


def test_each_microbatch_has_its_own_increment():
    model = nn.Linear(3, 2, bias=False)
    inputs = [torch.randn(4, 3) for _ in range(3)]
    with recording(model) as (session, sink):
        for x in inputs:
            model(x).sum().backward()
        session.step()
    total = 0
    for index, x in enumerate(inputs):
        array = sink.arrays[f"step0/mb{index}/@root/param_grad/weight"]
        np.testing.assert_allclose(array, (torch.ones(2, 4) @ x).numpy(), rtol=1e-6)
        total = total + array
    assert model.weight.grad is not None
    np.testing.assert_allclose(total, model.weight.grad.numpy(), rtol=1e-6)


def test_only_the_root_carries_hooks_for_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with recording(model):
        assert model._forward_hooks and not model[0]._forward_hooks


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_weight_used_in_several_checkpoints_has_one_record(reentrant):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(3, 3)

        def forward(self, x):
            for _ in range(3):
                x = checkpoint(self.shared, x, use_reentrant=reentrant)
            return self.shared(x)

    model = Model()
    with recording(model) as (_, sink):
        model(torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert set(sink.records) == {
        "step0/mb0/shared/param_grad/bias",
        "step0/mb0/shared/param_grad/weight",
    }
    assert model.shared.weight.grad is not None
    np.testing.assert_allclose(
        sink.arrays["step0/mb0/shared/param_grad/weight"],
        model.shared.weight.grad.numpy(),
        rtol=1e-6,
    )


def test_two_backward_passes_of_one_microbatch_are_added_up():
    model = nn.Linear(2, 2).bfloat16()
    with recording(model) as (_, sink):
        y = model(torch.randn(3, 2, dtype=torch.bfloat16))
        y.sum().backward(retain_graph=True)
        y.square().sum().backward()
    array = sink.arrays["step0/mb0/@root/param_grad/weight"]
    assert array.dtype.name == "bfloat16"
    assert model.weight.grad is not None
    np.testing.assert_array_equal(
        array.astype(np.float32), model.weight.grad.float().numpy()
    )


def test_frozen_and_unused_parameters_have_none():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model["used"].bias.requires_grad_(False)
    with recording(model) as (_, sink):
        model["used"](torch.ones(1, 2)).sum().backward()
    assert list(sink.records) == ["step0/mb0/used/param_grad/weight"]


def test_sparse_gradients_are_skipped_with_the_reason():
    model = nn.Embedding(4, 2, sparse=True)
    with recording(model) as (_, sink):
        model(torch.tensor([1])).sum().backward()
    assert "sparse" in sink.skipped["step0/mb0/@root/param_grad/weight"]


def test_a_description_can_refuse_them():
    class Fused(PlainDescription):
        def parameter_layout(
            self, named: NamedParameter, kind: Kind
        ) -> ShardLayout | NoLayout:
            return NoLayout(reason="written by a fused kernel")

    model = nn.Linear(2, 2)
    with recording(model, Fused(model)) as (_, sink):
        model(torch.ones(2)).sum().backward()
    assert set(sink.skipped.values()) == {"written by a fused kernel"}


def test_filters_choose_modules_and_microbatches():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    filters = {"modules": ("1",), "microbatches": frozenset({1})}
    with recording(model, **filters) as (_, sink):
        for _ in range(3):
            model(torch.ones(2)).sum().backward()
    assert sorted(sink.records) == [
        "step0/mb1/1/param_grad/bias",
        "step0/mb1/1/param_grad/weight",
    ]
    assert not model[0].weight._backward_hooks
