"""A model that a loop runs by a method of its own, and what its outputs may be."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ttrace.errors import UsageError
from ttrace.frontends import torch_capture
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.store.reader import Trace, open_trace

Record = Callable[[Callable[[], object]], Trace]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Record:
    """Runs a training while it is recorded."""

    def recorded(train: Callable[[], object]) -> Trace:
        request = RecordRequest(out=tmp_path / "trace")
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        train()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(request.out)

    return recorded


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def losses(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).square().mean()


def train(
    model: nn.Module, call: Callable[[], torch.Tensor], method: str = "forward"
) -> None:
    with torch_capture.trace(model, method=method) as trace:
        for _ in range(2):
            call().backward()
        trace.step()


def test_the_method_is_the_forward_of_the_root(record):
    model = Model()
    trace = record(
        lambda: train(model, lambda: model.losses(torch.ones(4, 3)), "losses")
    )
    ids = set(map(str, trace.info.tensors))
    assert {
        f"step0/mb{number}/{what}"
        for number in (0, 1)
        for what in ("@root/input/0", "@root/output/0", "layer/output/0")
    } <= ids
    assert vars(model).get("losses") is None  # it is the class's again


def test_a_method_that_the_model_had_of_its_own_is_put_back(record):
    model = Model()
    own = model.losses = lambda x: model.layer(x).sum()
    record(
        lambda: train(model, lambda: model.losses(torch.ones(1, 3)), method="losses")
    )
    assert model.losses is own


def test_a_method_that_raises_does_so_as_without_a_trace(record):
    model = Model()

    def fail() -> None:
        with torch_capture.trace(model, method="losses") as trace:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                model.losses(torch.ones(1, 5))
            model.losses(torch.ones(1, 3))
            trace.step()

    assert "step0/mb1/@root/output/0" in set(map(str, record(fail).info.tensors))


def test_a_method_that_is_not_there_is_named(record):
    with pytest.raises(UsageError) as error:
        record(lambda: train(Model(), lambda: torch.ones(()), "loses"))
    assert str(error.value).splitlines() == [
        "the model has no method of that name",
        "  where:    trace(..., method='loses')",
        "  expected: a method of Model",
        "  got:      loses",
        "  to do:    name the method that the training loop calls",
    ]


class Two(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, *gradients):
        first, second = gradients
        assert second is None
        return first * 2


def test_an_output_that_no_gradient_reaches_has_none(record):
    """DistributedDataParallel hands all outputs through one such function."""

    class Pair(nn.Module):
        def forward(self, x):
            return Two.apply(x)

    model = nn.Sequential(nn.Linear(3, 2), Pair())
    trace = record(lambda: train(model, lambda: model(torch.ones(1, 3))[0].sum()))
    gradients = {str(id_) for id_ in trace.info.tensors if "grad_output" in str(id_)}
    assert "step0/mb0/1/grad_output/0" in gradients
    assert "step0/mb0/1/grad_output/1" not in gradients
    assert not trace.info.skipped
