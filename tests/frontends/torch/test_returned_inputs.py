"""Outputs that are inputs of their module: the position bias of T5, for example."""

import pytest
import torch
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import open_trace


class Layer(nn.Module):
    """Adds the bias, and returns it for the next layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, bias):
        hidden = self.linear(x) + bias
        return hidden.tanh(), bias


class Model(nn.Module):
    def __init__(self, *, copies: bool):
        super().__init__()
        self.bias = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.copies = copies

    def forward(self, x):
        bias = self.bias(x)
        for layer in self.layers:
            # As fully_shard does with whatever a wrapped module is given.
            given = bias.view_as(bias) if self.copies else bias
            x, bias = layer(x, given)
        return x


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(name, *, copies, model=Model):
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        torch.manual_seed(0)
        made = model(copies=copies)
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
        with torch_capture.trace(made, optimizer) as trace:
            made(torch.randn(2, 4)).square().mean().backward()
            optimizer.step()
            trace.step()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(tmp_path / name)

    return recorded


def test_a_wrapper_that_copies_inputs_changes_nothing(record):
    reference, candidate = record("plain", copies=False), record("copies", copies=True)
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict is Outcome.PASS, report.summary
    skipped = {
        tensor.id: tensor.reason
        for tensor in report.tensors
        if tensor.status == "skipped" and "/layers." in tensor.id
    }
    assert set(skipped) == {f"step0/mb0/layers.{n}/grad_output/1" for n in range(3)}
    assert all(
        "the module returns an input that it also uses: its gradient is that of all "
        "uses of this tensor" in reason
        for reason in skipped.values()
    )
    compared = {tensor.id for tensor in report.tensors if tensor.status == "passed"}
    assert "step0/mb0/layers.1/grad_output/0" in compared
    assert "step0/mb0/layers.1/grad_input/bias" in compared or (
        "step0/mb0/layers.1/grad_input/1" in compared
    )


class Skip(nn.Module):
    """A residual block whose shortcut hands the input through."""

    def __init__(self):
        super().__init__()
        self.linear, self.skip = nn.Linear(4, 4), nn.Identity()

    def forward(self, x):
        return self.skip(x) + self.linear(x)


class SkipsOutside(nn.Module):
    """Uses the input of the block outside of it, too."""

    def __init__(self, *, copies: bool):
        super().__init__()
        self.first, self.block = nn.Linear(4, 4), Skip()
        self.own, self.last = nn.Identity(), nn.Linear(8, 2)
        self.copies = copies

    def forward(self, x):
        x = self.first(x)
        given = x.view_as(x) if self.copies else x
        return self.last(self.own(torch.cat([self.block(given), x], 1)))


def test_what_a_module_around_was_given_has_uses_outside(record):
    runs = (
        record("plain", copies=False, model=SkipsOutside),
        record("copies", copies=True, model=SkipsOutside),
    )
    report = compare_traces(*runs, NumpyBackend())
    assert report.verdict is Outcome.PASS, report.summary
    (skipped,) = (
        tensor.reason
        for tensor in report.tensors
        if tensor.id == "step0/mb0/block.skip/grad_output/0"
    )
    assert skipped == (
        "reference: the module returns what a module around it was given, too: its "
        "gradient is that of all uses of this tensor"
    )
    compared = {tensor.id for tensor in report.tensors if tensor.status == "passed"}
    assert "step0/mb0/own/grad_output/0" in compared
    assert "step0/mb0/block/grad_input/0" in compared
