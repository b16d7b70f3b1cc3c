"""Models and optimizers that do not belong together, or are not ready."""

import logging

import pytest
import torch
from torch import nn

from ttrace.errors import UsageError
from ttrace.frontends import torch_capture
from ttrace.ir.frozen_parameters import frozen_in
from ttrace.ir.trace_warnings import warnings_in
from ttrace.ir.unheld_parameters import unheld_in
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


def of_a_rank(monkeypatch, world_size: int) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_norm_of_an_optimizer_of_a_part_is_that_of_the_clip_of_all(
    switch_on, monkeypatch, caplog, world_size
):
    """As of ZeRO written by hand: other ranks step the other parameters."""
    of_a_rank(monkeypatch, world_size)
    net = model()
    optimizer = sgd(net[0])
    with torch_capture.trace(net, optimizer) as trace:
        net(torch.ones(2, 3)).sum().backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
        trace.step()
    opened = open_trace(switch_on, allow_incomplete=True)
    info = opened.info
    (record,) = [r for r in info.tensors.values() if r.id.kind == "grad_norm"]
    assert opened.load(record.shards[0]) == pytest.approx(norm.item())
    said = unheld_in(info.ranks[0].settings)
    assert said == ({("2", "weight"), ("2", "bias")} if world_size > 1 else set())
    assert ("no optimizer that was given" in caplog.text) == (world_size == 1)


@pytest.mark.parametrize("asks", [False, True])
def test_the_norm_of_a_part_is_not_claimed_to_be_that_of_all(
    switch_on, monkeypatch, asks
):
    of_a_rank(monkeypatch, 2)
    net = model()
    optimizer = sgd(net[0])
    with torch_capture.trace(net, optimizer) as trace:
        net(torch.ones(2, 3)).sum().backward()
        if asks:  # for a sum of squares over the ranks
            nn.utils.clip_grad_norm_(net[0].parameters(), float("inf"))
        optimizer.step()
        trace.step()
    info = open_trace(switch_on, allow_incomplete=True).info
    (skipped,) = [s for s in info.skipped.values() if s.id.kind == "grad_norm"]
    assert "holds a part of the parameters that are trained" in skipped.reason


def test_an_optimizer_that_clips_its_part_alone_has_the_norm_of_that(
    switch_on, monkeypatch
):
    of_a_rank(monkeypatch, 2)
    net = model()
    optimizer = sgd(net[0])
    with torch_capture.trace(net, optimizer) as trace:
        net(torch.ones(2, 3)).sum().backward()
        nn.utils.clip_grad_norm_(net[0].parameters(), 0.1)
        optimizer.step()
        trace.step()
    info = open_trace(switch_on, allow_incomplete=True).info
    assert [i for i in info.tensors if i.kind == "grad_norm"]
