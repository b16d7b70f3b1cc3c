"""Backward passes that give no parameter a gradient, beside that of the training."""

import pytest
import torch
from torch import nn
from torch.autograd import grad  # as scripts import it: before the trace begins

from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.side_passes import ONLY_ASIDE
from ttrace.ir.kinds import Kind
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.store.reader import open_trace

RUN = "_engine_run_backward"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.first(x).tanh())


def first_pass(way, out, x, model):
    """What the script computes before the backward; None of the training."""
    if way == "grad":
        return grad(out.sum(), x, create_graph=True)[0]
    if way == "backward":
        out.sum().backward(inputs=[x], retain_graph=True)
    elif way == "parameters":
        return grad(out.sum(), list(model.parameters()), create_graph=True)[0]
    return None


def train(way, *, with_loss=True):
    torch.manual_seed(0)
    model, out = Net(), torch.zeros(())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            x = torch.randn(3, 4, requires_grad=True)
            out = model(x)
            found = first_pass(way, out, x, model)
            if with_loss:
                loss = (3 * out).square().mean()
                if found is not None:
                    loss = loss + found.square().mean()
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return model, out


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(way, **options):
        request = RecordRequest(out=tmp_path / way)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        run = vars(torch.autograd)[RUN]
        model, out = train(way, **options)
        assert vars(torch.autograd)[RUN] is run
        monkeypatch.delenv(RECORD_VARIABLE)
        return model, out, open_trace(tmp_path / way)

    return recorded


def values(trace, kind, module="last", step=1):
    (record,) = (
        record
        for id_, record in trace.info.tensors.items()
        if (id_.kind, id_.module, id_.step) == (kind, module, step)
    )
    return torch.from_numpy(trace.load(record.shards[0]).copy())


@pytest.mark.parametrize("way", ["grad", "backward"])
def test_the_gradient_is_that_of_the_training(record, way):
    _, out, trace = record(way)
    assert not trace.info.skipped
    expected = 18 * out.detach() / 3
    if way == "backward":  # a penalty adds to the gradient of the output
        torch.testing.assert_close(values(trace, Kind.GRAD_OUTPUT), expected)
    shown = values(trace, Kind.GRAD_OUTPUT)
    assert not torch.equal(shown, torch.ones_like(shown))


@pytest.mark.parametrize("way", ["grad", "backward"])
def test_observing_changes_nothing(record, way):
    model, _, _ = record(way)
    plain, _ = train(way)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_only_such_a_pass_reaches_is_skipped(record):
    _, _, trace = record("grad", with_loss=False)
    kinds = {id_.kind for id_ in trace.info.tensors}
    assert not kinds & {Kind.GRAD_OUTPUT, Kind.GRAD_INPUT}
    reasons = {
        str(id_): skipped.reason
        for id_, skipped in trace.info.skipped.items()
        if id_.kind is Kind.GRAD_OUTPUT
    }
    assert reasons["step0/mb0/last/grad_output/0"] == ONLY_ASIDE
    assert reasons["step1/mb0/first/grad_output/0"] == ONLY_ASIDE


def test_a_pass_that_gives_gradients_of_parameters_is_of_the_training(record):
    _, _, trace = record("parameters", with_loss=False)
    shown = values(trace, Kind.GRAD_OUTPUT)
    assert torch.equal(shown, torch.ones_like(shown))
