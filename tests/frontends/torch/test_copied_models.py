"""Models that are copied or saved whole while they are traced, as for an average."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import open_trace


def train(copied) -> list[torch.Tensor]:
    """Trains; ``copied`` is given the model, and its result runs beside it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    outputs = []
    with torch_capture.trace(model, optimizer) as trace:
        other = copied(model)
        for _ in range(2):
            loss = model(inputs).square().mean()
            trace.loss(loss)
            loss.backward()
            if other is not None:
                outputs.append(other(inputs))
                other(inputs).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if isinstance(other, AveragedModel):
                other.update_parameters(model)
            trace.step()
    return outputs


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "average": lambda model: AveragedModel(model, avg_fn=get_ema_avg_fn(0.9)),
    "saved": saved_and_loaded,
}


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(name, copied, noise_seed=None):
        out = tmp_path / name
        request = RecordRequest(out=out, noise_seed=noise_seed)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        outputs = train(copied)
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(out), outputs

    return recorded


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_another_model(record, kind):
    alone, _ = record("alone", lambda model: None)
    untraced = train(COPIES[kind])
    traced, outputs = record("copied", COPIES[kind])
    assert all(map(torch.equal, outputs, untraced))
    assert set(traced.info.tensors) == set(alone.info.tensors)
    report = compare_traces(alone, traced, NumpyBackend())
    assert report.verdict is Outcome.PASS, report.summary


@pytest.mark.parametrize("kind", COPIES)
def test_noise_is_not_in_a_copy(record, kind):
    _, outputs = record("noise", COPIES[kind], noise_seed=1)
    first = train(COPIES[kind])[0]
    assert torch.equal(outputs[0], first)
