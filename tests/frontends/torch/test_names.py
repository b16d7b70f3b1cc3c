import copy
import sys
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    checkpoint_wrapper,
)

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.compiled import own_buffers
from ttrace.frontends.torch_parts.names import canonical_modules, canonical_parameters
from ttrace.frontends.torch_parts.native import NativeDescription


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Tanh()))


def names(module: nn.Module) -> list[str]:
    parameters = [f"{p.module}/{p.slot}" for p in canonical_parameters(module)]
    return [*(path for path, _ in canonical_modules(module)), *parameters]


def test_a_plain_model_has_the_names_that_torch_gives():
    plain = model()
    assert names(plain) == [
        *("@root", "0", "1", "1.0", "1.1"),
        *("0/weight", "0/bias", "1.0/weight", "1.0/bias"),
    ]


def test_names_of_wrappers_are_taken_out_wherever_they_stand():
    wrapped: Any = model()
    wrapped[1][0] = checkpoint_wrapper(wrapped[1][0])
    wrapped[1] = checkpoint_wrapper(wrapped[1])
    outer = nn.DataParallel(checkpoint_wrapper(wrapped))
    assert names(outer) == names(model())


def test_the_inner_module_is_the_one_that_is_observed():
    inner = nn.Linear(2, 2)
    wrapped = nn.Sequential(checkpoint_wrapper(inner))
    assert dict(canonical_modules(wrapped))["0"] is inner


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_of_a_compiled_module_the_outer_one_is_observed():
    compiled = nn.Sequential(model())
    compiled[0].compile()  # in place: no name of its own
    assert names(compiled) == names(nn.Sequential(model()))
    outer: Any = nn.Sequential(nn.Module())
    outer[0] = torch.compile(model(), backend="eager")
    assert names(outer) == names(nn.Sequential(model()))
    assert dict(canonical_modules(outer))["0"] is outer[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_wrapper_that_was_told_to_compile_stands_for_what_it_wraps():
    inner = nn.BatchNorm1d(2)
    outer: Any = nn.Sequential(checkpoint_wrapper(checkpoint_wrapper(inner)))
    outer[0].compile(backend="eager")
    found = list(canonical_modules(outer))
    assert found == [("@root", outer), ("0", outer[0])]
    assert own_buffers(outer[0]) is inner._buffers
    # What torch.compile makes of it, also where a test before has switched Dynamo off.
    wrapped: Any = OptimizedModule(nn.DataParallel(inner), cast(Any, lambda f: f))
    assert list(canonical_modules(wrapped)) == [("@root", wrapped)]
    assert own_buffers(wrapped) is inner._buffers


def test_a_module_of_the_users_that_is_called_module_keeps_its_name():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)
            self._orig_mod = copy.deepcopy(self.module)

    assert names(Mine())[:3] == ["@root", "module", "_orig_mod"]


def test_data_parallel_is_refused_by_name():
    with pytest.raises(UsageError, match=r"torch\.nn\.DataParallel cannot be traced"):
        NativeDescription(nn.Sequential(nn.DataParallel(model())))


def test_adapters_leave_the_names_of_what_they_adapt(monkeypatch):
    class Layer(nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer
            self.lora_A = nn.ModuleDict({"default": nn.Linear(2, 1, bias=False)})

    class Tuner(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

    class Peft(nn.Module):
        def __init__(self, base_model):
            super().__init__()
            self.base_model = base_model

    for where, class_name, cls in (
        ("peft.peft_model", "PeftModel", Peft),
        ("peft.tuners.tuners_utils", "BaseTuner", Tuner),
        ("peft.tuners.tuners_utils", "BaseTunerLayer", Layer),
    ):
        loaded = sys.modules.get(where) or ModuleType(where)
        monkeypatch.setattr(loaded, class_name, cls, raising=False)
        monkeypatch.setitem(sys.modules, where, loaded)
    inner = nn.Sequential(Layer(nn.Linear(2, 2)), nn.Linear(2, 2))
    peft = Peft(Tuner(inner))
    modules = dict(canonical_modules(peft))
    assert list(modules) == ["@root", "0", "0.lora_A", "0.lora_A.default", "1"]
    assert modules["@root"] is inner
    assert modules["0"] is inner[0]  # with the adapter, as the merged layer is
    assert [f"{n.module}.{n.slot}" for n in canonical_parameters(peft)] == [
        "0.weight",
        "0.bias",
        "0.lora_A.default.weight",
        "1.weight",
        "1.bias",
    ]
