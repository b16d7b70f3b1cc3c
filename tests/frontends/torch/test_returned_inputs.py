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
    def recorded(name, *, copies):
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        torch.manual_seed(0)
        model = Model(copies=copies)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch_capture.trace(model, optimizer) as trace:
            model(torch.randn(2, 4)).square().mean().backward()
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
