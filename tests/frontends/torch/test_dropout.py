"""Rates of dropout that a model of torch ran with."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.ir.dropout import parse_dropout_key
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest


class Attention(nn.Module):
    """As in transformers: the rate is an attribute, and a function drops."""

    def __init__(self):
        super().__init__()
        self.attention_dropout = 0.3
        self.drop_last, self.capacity_drop_factor, self.hidden_drop = True, 1.0, "0.1"

    def forward(self, x):
        return nn.functional.dropout(x, self.attention_dropout, self.training)


class Block(nn.Module):
    def __init__(self, rate: float = 0.1):
        super().__init__()
        self.drop = nn.Dropout(rate)
        self.attention = Attention()

    def forward(self, x):
        return self.drop(self.attention(x))


def stated(model, *, between=lambda step: None, steps: int = 1, data=None):
    sink = MemorySink()
    session = CaptureSession(
        PlainDescription(model),
        RecordRequest(out=Path("unused")),
        rank=0,
        world_size=1,
        open_sink=lambda _: sink,
    )
    session.start()
    for step in range(steps):
        between(step)
        model(torch.ones(2, 3, 4) if data is None else data)
        session.step()
    session.close()
    return {
        key.removeprefix("dropout."): text
        for key, text in sink.settings.items()
        if parse_dropout_key(key) is not None
    }


def test_modules_that_drop_and_attributes_that_say_at_which_rate():
    model = nn.ModuleDict({"a": Block(), "b": Block(0.2)})
    model.forward = lambda x: model["b"](model["a"](x))
    assert stated(model) == {
        "a.drop": "0.1",
        "b.drop": "0.2",
        "a.attention:attention_dropout": "0.3",
        "b.attention:attention_dropout": "0.3",
    }


def test_layers_that_are_alike_are_stated_once_until_they_differ():
    last = Block()
    layers = nn.Sequential(Block(), last)
    model = nn.ModuleDict({"layers": layers})
    model.forward = layers.forward
    common = {"layers.*.drop": "0.1", "layers.*.attention:attention_dropout": "0.3"}
    assert stated(model) == common

    def between(step):
        last.drop.train(step == 0)

    found = stated(model, between=between, steps=3)
    assert found["layers.1.drop"] == "0.1; from step 1 on 0 in eval mode"
    assert found["layers.0.drop"] == "0.1"


def test_a_model_in_eval_mode():
    assert stated(Block().eval()) == {
        "drop": "0 in eval mode",
        "attention:attention_dropout": "0 in eval mode",
    }


@pytest.mark.parametrize(("layers", "rate"), [(2, 0.25), (1, None)])
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_a_recurrent_module_drops_between_its_layers(layers, rate):
    model = nn.Sequential(nn.LSTM(4, 4, num_layers=layers, dropout=0.25))
    assert stated(model) == ({} if rate is None else {"0:dropout": "0.25"})


def test_attention_of_torch():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    found = stated(layer)
    assert found["self_attn:dropout"] == "0.1"
    assert found["dropout1"] == found["dropout"] == "0.1"
