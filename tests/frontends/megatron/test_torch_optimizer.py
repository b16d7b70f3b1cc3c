"""Torch's own optimizers on Megatron's models: what is recorded, and what is said."""

import logging
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from ttrace.examples.megatron_gpt import warnings_of_megatron  # noqa: E402

warnings_of_megatron.quiet()

from ttrace.frontends.megatron_parts.torch_optimizer import (  # noqa: E402
    TorchOptimizerShards,
    observed_torch_optimizer,
)
from ttrace.frontends.torch_parts.description import NamedParameter, NoLayout  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402

WHY = (
    "Adam of torch updates nothing: it reads .grad, but Megatron's "
    "DistributedDataParallel keeps gradients in main_grad, where "
    "get_megatron_optimizer()'s optimizers look for them"
)


class Session:
    """Notes what it is told of one parameter."""

    def __init__(self, named: NamedParameter):
        self._named = named
        self.events: list[tuple] = []
        self.settings: dict[str, Any] = {}

    def optimizer_settings(self, find_settings):
        self.settings |= find_settings()

    def named_parameters(self):
        yield self._named

    def scalar(self, kind, value, *, slot=None):
        self.events.append((kind, slot, value))

    def parameters(self, kind, getter):
        self.events.append((kind, getter(self._named).tolist()))

    def optimizer_state(self, getter):
        self.events.append((Kind.OPTIMIZER_STATE, getter(self._named)))


@pytest.fixture
def named() -> NamedParameter:
    parameter = torch.nn.Parameter(torch.ones(2))
    return NamedParameter(module="m", slot="weight", parameter=parameter)


def starve(named: NamedParameter) -> None:
    """What Megatron's DistributedDataParallel does with a gradient."""
    setattr(named.parameter, "main_grad", torch.full((2,), 3.0))  # noqa: B010


def test_a_step_is_recorded_in_the_order_in_which_it_happens(named):
    session: Any = Session(named)
    optimizer = torch.optim.SGD([named.parameter], lr=0.5, momentum=0.5)
    named.parameter.grad = torch.ones(2)
    with observed_torch_optimizer(optimizer, session):
        optimizer.step()
    optimizer.step()  # no longer observed
    kinds = [event[0] for event in session.events]
    assert kinds == [
        *(Kind.MAIN_GRAD, Kind.LEARNING_RATE),
        *(Kind.UPDATED_PARAM, Kind.OPTIMIZER_STATE),
    ]
    assert session.events[:3] == [
        (Kind.MAIN_GRAD, [1.0, 1.0]),
        (Kind.LEARNING_RATE, None, 0.5),
        (Kind.UPDATED_PARAM, [0.5, 0.5]),
    ]
    assert set(session.events[3][1]) == {"momentum_buffer"}
    assert session.settings["optimizer.all.momentum"] == "0.5"
    assert session.settings["optimizer.all.weight_decay"] == "0"


def test_an_optimizer_that_is_given_nothing_is_named(named, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)
    session: Any = Session(named)
    optimizer = torch.optim.Adam([named.parameter])
    starve(named)
    with observed_torch_optimizer(optimizer, session):
        optimizer.step()
        optimizer.step()
    assert [record.getMessage() for record in caplog.records] == [f"ttrace: {WHY}."]
    # The gradient is compared all the same: it is right or wrong as before.
    assert session.events[0] == (Kind.MAIN_GRAD, [3.0, 3.0])
    assert session.events[2] == (Kind.UPDATED_PARAM, [1.0, 1.0])
    assert session.events[3] == (Kind.OPTIMIZER_STATE, NoLayout(reason=WHY))


def test_a_parameter_that_is_not_trained_is_no_reason_to_warn(named):
    optimizer_shards = TorchOptimizerShards(torch.optim.Adam([named.parameter]))
    named.parameter.requires_grad_(False)
    starve(named)
    assert optimizer_shards.main_grad(named) is None
    assert optimizer_shards.state(named) == {}


def test_looking_for_state_adds_none(named):
    optimizer = torch.optim.Adam([named.parameter])
    TorchOptimizerShards(optimizer).state(named)
    assert not optimizer.state
