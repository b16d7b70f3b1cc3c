"""Models and optimizers that do not belong together, or are not ready."""

import logging

import pytest
import torch
from torch import nn

from ttrace.errors import UsageError
from ttrace.frontends import torch_capture
from ttrace.ir.frozen_parameters import frozen_in
from ttrace.ir.trace_warnings import warnings_in
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.store.reader import open_trace


@pytest.fixture
def switch_on(tmp_path, monkeypatch):
    request = RecordRequest(out=tmp_path / "trace")
    for name, value in request.to_environment().items():
        monkeypatch.setenv(name, value)
    return request.out


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for m in modules for p in m.parameters()], lr=0.1)


def train(net: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    with torch_capture.trace(net, *optimizers) as trace:
        net(torch.ones(2, 3)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        trace.step()


def test_an_optimizer_of_another_model_is_named(switch_on, caplog):
    net = model()
    with caplog.at_level(logging.WARNING, logger="absl"):
        train(net, sgd(model()))
    assert "SGD holds none of the model's parameters" in caplog.text
    assert "make it from the parameters of the model" in caplog.text
    assert "no optimizer that was given" not in caplog.text
    open_trace(switch_on)


def test_parameters_in_no_optimizer_are_named(switch_on, caplog):
    net = model()
    with caplog.at_level(logging.WARNING, logger="absl"):
        train(net, sgd(net[0]))
    assert "no optimizer that was given to trace() holds 2.weight and 1 more" in (
        caplog.text
    )
    info = open_trace(switch_on).info
    (said,) = warnings_in(rank.settings for rank in info.ranks)
    assert said.startswith("no optimizer that was given to trace() holds 2.weight")
    assert frozen_in(rank.settings for rank in info.ranks) == frozenset()


def test_what_is_not_trained_needs_no_optimizer(switch_on, caplog):
    net = model()
    net[2].requires_grad_(False)
    with caplog.at_level(logging.WARNING, logger="absl"):
        train(net, sgd(net[0]))
    assert not caplog.text
    info = open_trace(switch_on).info
    assert warnings_in(rank.settings for rank in info.ranks) == []
    frozen = frozen_in(rank.settings for rank in info.ranks)
    assert frozen == {("2", "weight"), ("2", "bias")}


def test_several_optimizers_together_hold_all(switch_on, caplog):
    net = model()
    with caplog.at_level(logging.WARNING, logger="absl"):
        train(net, sgd(net[0]), sgd(net[2]))
    assert not caplog.text


def test_a_lazy_model_is_refused_until_it_has_run(switch_on):
    net = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(UsageError, match="no shape yet") as refused:
        train(net)
    assert "0.weight" in str(refused.value)
    assert "run one forward of the model before the trace" in str(refused.value)
    net(torch.ones(2, 3))
    train(net, sgd(net))
    open_trace(switch_on)


def test_a_model_without_values_is_refused(switch_on):
    net = model().to("meta")
    with pytest.raises(UsageError, match="on the device meta") as refused:
        train(net)
    assert "after to_empty()" in str(refused.value)


def test_parameters_that_zero_3_has_emptied_are_refused(switch_on):
    net = model()
    for parameter in net.parameters():
        vars(parameter)["ds_shape"] = parameter.shape
    with pytest.raises(UsageError, match="ZeRO 3 of DeepSpeed") as refused:
        train(net)
    assert "compare ZeRO 2" in str(refused.value)


def test_in_a_plain_run_nothing_is_refused(monkeypatch):
    monkeypatch.delenv(RECORD_VARIABLE, raising=False)
    net = model().to("meta")
    with torch_capture.trace(net):
        pass
