"""What modules of torch are configured with, as a run states it."""

import pytest
import torch
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.module_settings import ModuleSettings
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace


class Norm(nn.Module):
    """As in transformers, beside what is none of a norm's settings."""

    def __init__(self, eps: float = 1e-6):
        super().__init__()
        self.variance_epsilon, self.hidden_size, self.layer_idx = eps, 8, 3


def stated(model: nn.Module) -> dict[str, str]:
    settings = ModuleSettings()
    for path, module in model.named_modules():
        settings.note(path or "@root", module)
    found = settings.end_step()
    assert settings.end_step() == {}
    return {key.removeprefix("module."): text for key, text in found.items()}


def test_constants_of_torch_and_attributes_of_others():
    model = nn.Sequential()
    for i in range(2):
        model.add_module(
            f"blocks{i}" if i else "norm", nn.BatchNorm1d(8, momentum=None, eps=1e-3)
        )
    model.add_module("own", Norm())
    found = stated(model)
    assert found["norm:momentum"] == "None" and found["norm:eps"] == "0.001"
    assert found["own:variance_epsilon"] == "1e-06"
    assert {key for key in found if key.startswith("own")} == {"own:variance_epsilon"}
    assert "norm:num_features" not in found


def test_layers_that_are_alike_are_one():
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(3)]
    model = nn.Sequential()
    model.add_module("blocks", nn.ModuleList(blocks))
    assert stated(model) == {
        "blocks.*.1:eps": "1e-05",
        "blocks.*.1:elementwise_affine": "True",
    }
    blocks[1][1] = nn.LayerNorm(8, eps=1e-2)
    found = stated(model)
    assert found["blocks.0.1:eps"] == "1e-05" and found["blocks.1.1:eps"] == "0.01"


def test_sizes_rates_of_dropout_and_what_changes_no_number_are_left_out():
    model = nn.Sequential(nn.Conv1d(2, 3, 5, padding=2), nn.ReLU(), nn.Dropout(0.1))
    found = stated(model)
    assert found["0:padding"] == "(2)" and found["0:kernel_size"] == "(5)"
    assert {key.partition(":")[0] for key in found} == {"0"}
    assert "0:in_channels" not in found


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x)


def test_the_code_of_modules_that_are_none_of_torch():
    model = nn.Sequential()
    model.add_module("blocks", nn.ModuleList(Block() for _ in range(2)))
    found = stated(model)
    line = Block.forward.__code__.co_firstlineno
    assert found["blocks.*:code"].endswith(
        f"test_module_settings.py:{line} Block.forward"
    )
    assert not [key for key in found if "linear" in key and key.endswith("code")]


class Scaled(nn.Module):
    def forward(self, x, scaling, *, is_causal=False, layer=0, note="", more=None):
        return x * scaling


def test_numbers_and_flags_that_a_module_is_given():
    """Integers are sizes more often than not; a later call is not looked at."""
    settings, module = ModuleSettings(), Scaled()
    x = torch.ones(2)
    given = {"is_causal": True, "layer": 3, "note": "a", "more": x}
    settings.note("adapter", module, (x, 2.0), given)
    settings.note("adapter", module, (x, 4.0), given)
    found = settings.end_step()
    assert {k: v for k, v in found.items() if "argument" in k} == {
        "module.adapter:argument 1": "2",
        "module.adapter:argument is_causal": "True",
    }


class Around(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.inner, self.factor = Scaled(), factor

    def forward(self, x):
        return self.inner(x, scaling=self.factor)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_another_factor_is_told_where_its_result_is_the_first_to_differ(
    factor, monkeypatch, tmp_path
):
    traces = []
    for name, each in (("reference", 2.0), ("candidate", factor)):
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        model = Around(each)
        with torch_capture.trace(model) as trace:
            model(torch.arange(1.0, 17).reshape(2, 8))
            trace.step()
        traces.append(open_trace(tmp_path / name))
    report = compare_traces(traces[0], traces[1], NumpyBackend())
    found = {one.code: one.sentence for one in report.diagnosis}
    assert ("module_settings" in found) == (factor != 2)
    if factor != 2:
        assert found["module_settings"].startswith(
            "argument scaling of inner is 2 in the reference and 4 in the candidate, "
            "and what differs first is step0/mb0/inner/output/0"
        )
