import contextlib
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest

MODES = pytest.mark.parametrize("reentrant", [True, False])


@contextlib.contextmanager
def recording(
    model: nn.Module, **filters
) -> Iterator[tuple[CaptureSession, MemorySink]]:
    sink = MemorySink()
    request = RecordRequest(out=Path("unused"), capture=CaptureFilter(**filters))
    session = CaptureSession(
        PlainDescription(model), request, rank=0, world_size=1, open_sink=lambda _: sink
    )
    session.start()
    yield session, sink
    session.close()


class Call(nn.Module):
    """A module made of a function; its parameters are those of the parts."""

    def __init__(self, function, **parts: nn.Module):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def recorded(sink: MemorySink, text: str) -> torch.Tensor:
    return torch.from_numpy(sink.arrays[text].copy())


def ids(sink: MemorySink, kind: Kind) -> list[str]:
    return [text for text, record in sink.records.items() if record.id.kind is kind]


# Activations.


def test_inputs_and_outputs_are_recorded_in_order_of_the_calls():
    model = Call(
        lambda self, x, *, scale: self.b(self.a(x)) * scale, a=nn.Tanh(), b=nn.Tanh()
    )
    x = torch.randn(2, 3)
    with recording(model) as (_, sink):
        y = model(x, scale=torch.tensor(2.0))
    assert list(sink.records) == [
        "step0/mb0/@root/input/0",
        "step0/mb0/@root/input/scale",
        "step0/mb0/a/input/0",
        "step0/mb0/a/output/0",
        "step0/mb0/b/input/0",
        "step0/mb0/b/output/0",
        "step0/mb0/@root/output/0",
    ]
    assert torch.equal(recorded(sink, "step0/mb0/@root/output/0"), y)
    assert [r.sequence for r in sink.records.values()] == list(range(7))


def test_integers_and_booleans_are_recorded_and_other_things_ignored():
    model = Call(lambda self, tokens, mask, name: {"y": tokens * 2, "n": 3})
    with recording(model) as (_, sink):
        model(torch.arange(3), torch.tensor([True, False]), name="x")
    assert [(r.id.slot, r.dtype) for r in sink.records.values()] == [
        ("0", "int64"),
        ("1", "bool"),
        ("y", "int64"),
    ]


def test_later_changes_in_place_do_not_alter_what_was_recorded():
    linear, relu = nn.Linear(4, 4), nn.ReLU(inplace=True)
    model = Call(lambda self, x: relu(linear(x)).zero_(), linear=linear, relu=relu)
    x = torch.randn(300, 4)
    with recording(model) as (_, sink):
        model(x)
    before = linear(x)
    assert torch.equal(recorded(sink, "step0/mb0/linear/output/0"), before)
    assert torch.equal(recorded(sink, "step0/mb0/relu/output/0"), before.relu())
    assert not recorded(sink, "step0/mb0/@root/output/0").any()


def test_values_changed_behind_autograd_are_recorded_as_they_are():
    def forward(self, x):
        y = self.a(x)
        y.data.mul_(2)
        return self.b(y)

    model = Call(forward, a=nn.Identity(), b=nn.Identity())
    with recording(model) as (_, sink):
        model(torch.ones(1000))
    assert recorded(sink, "step0/mb0/a/output/0")[0] == 1
    assert recorded(sink, "step0/mb0/b/input/0")[0] == 2


def test_a_tensor_that_cannot_be_stored_is_skipped_with_the_reason():
    model = Call(lambda self, x: (x.to(torch.complex64), x.to_sparse()))
    with recording(model) as (_, sink):
        model(torch.ones(2, 2))
    assert list(sink.skipped) == [
        "step0/mb0/@root/output/0",
        "step0/mb0/@root/output/1",
    ]
    assert "complex64" in sink.skipped["step0/mb0/@root/output/0"]


# Gradients of activations.


def share(function, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    function(x).backward(gradient)
    assert x.grad is not None
    return x.grad


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, flag, factor):
        ctx.save_for_backward(factor)
        return x * factor, torch.zeros(1)

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * ctx.saved_tensors[0], None, None


def in_place_body(x):
    return x.clone().mul_(3).sin()


BODIES = {
    "one_consumer": lambda x: x.sin(),
    "three_consumers": lambda x: x.sin() + x * x + x.exp(),
    "returns_sum_with_input": lambda x: x + x.sin(),
    "custom_function": lambda x: Scale.apply(x, True, torch.tensor(3.0))[0],
    "chunks": lambda x: torch.cat(x.chunk(2), 0) * x.flip(0),
    "view": lambda x: x.view(-1, 1).expand(-1, 2).sum(1).view_as(x),
    "in_place_copy": in_place_body,
    "checkpoint": lambda x: checkpoint(torch.sin, x, use_reentrant=False) + x,
    "checkpoint_reentrant": lambda x: checkpoint(torch.sin, x, use_reentrant=True) + x,
    "unused_branch": lambda x: (x.cos(), x.sin())[1],
}


@pytest.mark.parametrize("source", ["op", "split", "leaf", "custom_function"])
@pytest.mark.parametrize("name", BODIES)
def test_grad_input_is_the_share_of_the_module_alone(name, source):
    body = Call(lambda self, x: BODIES[name](x))

    def forward(self, x):
        if source == "split":
            x = torch.stack([x, x]).unbind()[1]
        elif source == "op":
            x = x * 1
        elif source == "custom_function":
            x = Scale.apply(x, True, torch.tensor(1.0))[0]
        return x.exp() * 5 + self.body(x) + x  # a residual uses the input too

    model = Call(forward, body=body)
    x = torch.randn(6, requires_grad=True)
    with recording(model) as (_, sink):
        model(x).sum().backward()
    grad_output = recorded(sink, "step0/mb0/body/grad_output/0")
    assert torch.equal(grad_output, torch.ones(6))
    expected = share(BODIES[name], x, grad_output)
    got = recorded(sink, "step0/mb0/body/grad_input/0")
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_grad_input_of_an_input_that_the_module_changes_in_place():
    model = Call(
        lambda self, x: self.body(x * 1), body=Call(lambda self, x: x.mul_(3).sin())
    )
    x = torch.randn(6, requires_grad=True)
    with recording(model) as (_, sink):
        model(x).sum().backward()
    expected = share(lambda v: (v * 3).sin(), x, torch.ones(6))
    assert torch.equal(recorded(sink, "step0/mb0/body/grad_input/0"), expected)


def test_parts_that_no_gradient_reaches_do_not_hold_up_the_others():
    body = Call(lambda self, x: (x.sin(), x.cos(), x.detach()))
    model = Call(lambda self, x: self.body(x * 1)[1], body=body)
    x = torch.randn(6, requires_grad=True)
    with recording(model) as (_, sink):
        model(x).sum().backward()
    expected = share(torch.cos, x, torch.ones(6))
    assert torch.equal(recorded(sink, "step0/mb0/body/grad_input/0"), expected)
    assert ids(sink, Kind.GRAD_OUTPUT) == [
        "step0/mb0/body/grad_output/1",
        "step0/mb0/@root/grad_output/0",
    ]


def test_slots_that_hold_the_same_tensor_get_the_same_gradient():
    model = Call(
        lambda self, x: self.body(x * 1, x * 1, other=None),
        body=Call(lambda self, q, k, other: q * k),
    )
    same = Call(lambda self, x: self.body(x, x), body=Call(lambda self, q, k: q * k))
    x = torch.randn(3, requires_grad=True)
    with recording(model) as (_, sink):
        model(x).sum().backward()
    assert torch.equal(recorded(sink, "step0/mb0/body/grad_input/1"), x)
    with recording(same) as (_, sink):
        same(x).sum().backward()
    for slot in "01":
        assert torch.equal(recorded(sink, f"step0/mb0/body/grad_input/{slot}"), 2 * x)


def test_an_input_handed_through_is_skipped_and_one_without_gradient_ignored():
    model = Call(
        lambda self, x: self.same(x * 1, x * 1)[0],
        same=Call(lambda self, x, y: (x, y.detach())),
    )
    x = torch.randn(3, requires_grad=True)
    with recording(model) as (_, sink):
        model(x).sum().backward()
    assert "untouched" in sink.skipped["step0/mb0/same/grad_input/0"]
    assert "step0/mb0/same/grad_input/1" not in sink.skipped
    assert not any("same/grad_input" in text for text in sink.records)


def test_a_leaf_that_is_returned_keeps_no_hook():
    weight = nn.Parameter(torch.ones(2))
    model = Call(lambda self, x: self.owner() * x, owner=Call(lambda self: weight))
    with recording(model) as (_, sink):
        model(torch.ones(2)).sum().backward()
    assert "parameter" in sink.skipped["step0/mb0/owner/grad_output/0"]
    assert not weight._backward_hooks


def test_views_changed_in_place_after_the_hook():
    linear = nn.Linear(4, 4)
    model = Call(lambda self, x: linear(x).view(2, 2).relu_().sum(), linear=linear)
    x = torch.randn(1, 4)
    with recording(model) as (_, sink):
        model(x).backward()
    expected = (linear(x) > 0).float()
    assert torch.equal(recorded(sink, "step0/mb0/linear/grad_output/0"), expected)


# Micro-batches, calls, recomputation.


def test_gradients_belong_to_the_forward_that_made_their_graph():
    model = nn.Sequential(nn.Linear(2, 2))
    inputs = [torch.randn(1, 2) for _ in range(3)]
    with recording(model) as (session, sink):
        graphs = {}
        for action in ("f0", "f1", "b0", "f2", "b1", "b2"):  # 1F1B
            index = int(action[1])
            if action[0] == "f":
                graphs[index] = model(inputs[index])
            else:
                graphs[index].backward(torch.full((1, 2), index + 1.0))
        session.step()
    for index, x in enumerate(inputs):
        gradient = torch.full((1, 2), index + 1.0)
        at = f"step0/mb{index}/0"
        assert torch.equal(recorded(sink, f"{at}/input/0"), x)
        assert torch.equal(recorded(sink, f"{at}/grad_output/0"), gradient)
        assert torch.equal(recorded(sink, f"{at}/param_grad/weight"), gradient.T @ x)
        assert torch.equal(recorded(sink, f"{at}/param_grad/bias"), gradient[0])


def test_steps_start_again_with_microbatch_0():
    model = nn.Linear(2, 2)
    with recording(model) as (session, sink):
        for _ in range(2):
            model(torch.ones(2))
            model(torch.ones(2))
            session.step()
    assert ids(sink, Kind.OUTPUT) == [
        f"step{step}/mb{mb}/@root/output/0" for step in (0, 1) for mb in (0, 1)
    ]


def test_nested_calls_of_the_root_are_calls_and_not_microbatches():
    def forward(self, x, depth=2):
        return self(x + 1, depth=depth - 1) if depth else self.leaf(x)

    model = Call(forward, leaf=nn.Tanh())
    with recording(model) as (_, sink):
        model(torch.zeros(1))
    assert ids(sink, Kind.INPUT) == [
        "step0/mb0/@root/input/0",
        "step0/mb0/@root/input/0/call1",
        "step0/mb0/@root/input/0/call2",
        "step0/mb0/leaf/input/0",
    ]
    assert ids(sink, Kind.OUTPUT)[1:] == [
        "step0/mb0/@root/output/0/call2",
        "step0/mb0/@root/output/0/call1",
        "step0/mb0/@root/output/0",
    ]


def test_evaluations_count_unless_paused():
    model = nn.Linear(2, 2)
    with recording(model, kinds=frozenset({Kind.OUTPUT})) as (session, sink):
        with session.paused():
            model(torch.ones(2))
        with torch.no_grad():
            model(torch.ones(2))
        model(torch.ones(2))
    assert list(sink.records) == [
        "step0/mb0/@root/output/0",
        "step0/mb1/@root/output/0",
    ]


class Stack(nn.Module):
    """One block called three times and another twice, each part checkpointed."""

    def __init__(self, reentrant: bool | None):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.other = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))
        self.reentrant = reentrant

    def part(self, x):
        return self.other(self.block(self.block(x)))

    def forward(self, x):
        x = self.run(self.block, x)
        x = self.run(self.part, x)
        return self.run(self.part, x) + x

    def run(self, function, x):
        if self.reentrant is None:
            return function(x)
        return checkpoint(function, x, use_reentrant=self.reentrant)


def record_stack(reentrant: bool | None) -> MemorySink:
    torch.manual_seed(0)
    model = Stack(reentrant)
    with recording(model) as (_, sink):
        losses = [model(torch.randn(3, 4, requires_grad=True)).sum() for _ in range(2)]
        losses[0].backward()
        losses[1].backward()
    return sink


@MODES
def test_recomputed_calls_have_the_numbers_and_values_of_the_first_ones(reentrant):
    sink = record_stack(reentrant)
    recomputed = [text for text in sink.arrays if text.endswith("/recompute")]
    outputs = [text for text in recomputed if "/output/" in text]
    assert len(outputs) >= 2 * (5 * 3 + 2 * 4 - (0 if reentrant else 3 * 2))
    for text in recomputed:
        first = text.removesuffix("/recompute")
        assert np.array_equal(sink.arrays[text], sink.arrays[first]), text


@MODES
def test_checkpoints_leave_all_other_records_as_they_are(reentrant):
    plain, sink = record_stack(None), record_stack(reentrant)
    kept = {t: a for t, a in sink.arrays.items() if not t.endswith("/recompute")}
    assert kept.keys() == plain.arrays.keys()
    for text, array in kept.items():
        # A reentrant checkpoint adds a shared parameter's gradients in another order.
        rtol = 1e-5 if reentrant and "param_grad" in text else 0
        np.testing.assert_allclose(array, plain.arrays[text], rtol=rtol, err_msg=text)


@pytest.mark.parametrize("outer", [True, False])
@MODES
def test_nested_checkpoints_record_the_recomputation_once(outer, reentrant):
    def forward(self, x):
        return checkpoint(middle, x, use_reentrant=outer)

    def middle(x):
        return checkpoint(model.inner, x, use_reentrant=reentrant).sin()

    model = Call(forward, inner=nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    x = torch.randn(2, 3, requires_grad=True)
    with recording(model) as (_, sink):
        model(x).sum().backward()
    assert "step0/mb0/inner.0/input/0/recompute" in sink.records
    assert {r.id.call for r in sink.records.values()} == {0}
    expected = share(model, x, torch.ones(2, 3))
    got = recorded(sink, "step0/mb0/inner/grad_input/0")
    torch.testing.assert_close(got, expected)
    assert "step0/mb0/inner.0/grad_output/0" in sink.records


def test_an_exception_in_forward_leaves_no_trace_in_the_counting():
    def forward(self, x, fails=False):
        with contextlib.suppress(ValueError):
            self.leaf(x, fails=True)
        if fails:
            raise ValueError
        return self.leaf(x)

    def leaf(self, x, fails=False):
        if fails:
            raise ValueError
        return x + 1

    model = Call(forward, leaf=Call(leaf))
    with recording(model) as (_, sink):
        with pytest.raises(ValueError):
            model(torch.zeros(1), fails=True)
        model(torch.zeros(1))
    assert ids(sink, Kind.OUTPUT) == [
        "step0/mb1/leaf/output/0/call1",
        "step0/mb1/@root/output/0",
    ]


# Memory.


class Witness:
    """Lives as long as the graph that holds it."""


class Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, witness):
        ctx.witness = witness
        return x * 2

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0], None


@pytest.mark.parametrize("runs_backward", [True, False])
@pytest.mark.parametrize("reentrant", [None, True, False])
def test_graphs_are_freed_without_the_garbage_collector(runs_backward, reentrant):
    witnesses = []

    def body(x):
        witness = Witness()
        witnesses.append(weakref.ref(witness))
        return Hold.apply(linear(x), witness) + x.sin()

    def forward(self, x):
        if reentrant is None:
            return body(x)
        return checkpoint(body, x, use_reentrant=reentrant)

    linear = nn.Linear(3, 3)
    model = nn.Sequential(Call(forward, linear=linear))
    gc.collect()
    gc.disable()
    try:
        with recording(model) as (_, sink):
            y = model(torch.randn(2, 3, requires_grad=True))
            if runs_backward:
                y.sum().backward()
            del y
            assert witnesses and not any(ref() for ref in witnesses)
        assert ("step0/mb0/0/grad_input/0" in sink.records) == runs_backward
    finally:
        gc.enable()


def test_gradients_that_come_after_the_end_are_ignored():
    model = nn.Linear(2, 2)
    with recording(model) as (_, sink):
        y = model(torch.ones(2))
    y.sum().backward()
    assert not ids(sink, Kind.GRAD_OUTPUT)
