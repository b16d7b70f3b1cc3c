"""What torch optimizers are set to, as a trace has it."""

import pytest
import torch
from torch import nn

from tests.frontends.torch.test_optimizer import tapped


def stated(model, optimizer, change=None):
    session, tap, sink = tapped(model, optimizer)
    for step in range(2):
        model(torch.ones(2)).sum().backward()
        if step and change is not None:
            change(optimizer)
        optimizer.step()
        session.step()
    tap.detach()
    session.close()
    return {
        name.removeprefix("optimizer."): value
        for name, value in sink.settings.items()
        if name.startswith("optimizer.")
    }


def test_groups_of_adamw():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(
        [
            {"params": [model.weight], "weight_decay": 0.1},
            {"params": [model.bias], "weight_decay": 0.0, "betas": (0.8, 0.9)},
        ],
        lr=1e-3,
    )
    found = stated(model, optimizer)
    assert found["group0.betas"] == "(0.9, 0.999)"
    assert found["group0.eps"] == "1e-08"
    assert found["group0.amsgrad"] == "False"
    assert found["group0.weight_decay"] == "0.1"
    assert found["group1.weight_decay"] == "0"
    assert found["group1.betas"] == "(0.8, 0.9)"
    assert not {"lr", "params", "foreach", "fused"} & {
        name.partition(".")[2] for name in found
    }


def test_sgd_and_an_optimizer_of_ones_own():
    class Mine(torch.optim.SGD):
        def __init__(self, params):
            super().__init__(params, lr=0.1, momentum=0.9, nesterov=True)
            self.param_groups[0]["trust"] = torch.tensor(0.5)

    model = nn.Linear(2, 1)
    found = stated(model, Mine(model.parameters()))
    assert found["group0.momentum"] == "0.9"
    assert found["group0.nesterov"] == "True"
    assert found["group0.trust"] == "0.5"


def test_a_setting_that_changes():
    def change(optimizer):
        optimizer.param_groups[0]["momentum"] = 0.5

    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = stated(model, optimizer, change)
    assert found["group0.momentum"] == "0.9; from step 1 on 0.5"


def test_settings_that_cannot_be_read_stop_nothing():
    class Odd(tuple):
        def __iter__(self):
            raise RuntimeError("odd")

    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["odd"] = Odd((1, 2))
    session, _, sink = tapped(model, optimizer)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    session.close()
    assert "step0/@root/updated_param/weight" in sink.records


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adagrad", "NAdam", "Adafactor"])
def test_every_optimizer_says_its_weight_decay(name):
    model = nn.Linear(2, 1)
    optimizer = getattr(torch.optim, name)(model.parameters(), weight_decay=0.25)
    assert stated(model, optimizer)["group0.weight_decay"] == "0.25"
