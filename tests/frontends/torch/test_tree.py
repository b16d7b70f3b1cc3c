import collections
import dataclasses
import types

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from ttrace.frontends.torch_parts.tree import (
    MAX_DEPTH,
    clean_name,
    map_tensors,
    named_arguments,
    named_tensors,
)
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId

Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass(frozen=True)
class Masks:
    causal: torch.Tensor
    name: str = "x"


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict):
    """Like that of Hugging Face: a dataclass that is an ordered dict as well."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)


def t(value: float = 0.0) -> torch.Tensor:
    return torch.tensor(value)


STRUCTURES = {
    "tensor": (t(), ["0"]),
    "tuple": ((t(), None, t()), ["0", "2"]),
    "list": ([t(), [t(), (t(),)]], ["0", "1.0", "1.1.0"]),
    "dict": ({"b": t(), "a": {"x": t(), 3: t()}}, ["b", "a.x", "a.3"]),
    "namedtuple": (Pair(t(), (t(), 1)), ["left", "right.0"]),
    "dataclass": ((t(), Masks(causal=t())), ["0", "1.causal"]),
    "model_output": (ModelOutput(logits=t()), ["logits"]),
    "packed": (
        pack_sequence([torch.ones(3), torch.ones(2)]),
        ["data", "batch_sizes"],
    ),
    "structseq": (torch.eye(2).max(dim=0), ["0", "1"]),
    "read_only": (types.MappingProxyType({"x": t()}), ["x"]),
    "nothing": (None, []),
    "opaque": (object(), []),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_slots_name_every_tensor_once(name):
    value, slots = STRUCTURES[name]
    assert [slot for slot, _ in named_tensors(value)] == slots


@pytest.mark.parametrize("name", STRUCTURES)
def test_mapping_walks_the_same_tensors_and_keeps_the_types(name):
    value, slots = STRUCTURES[name]
    before = list(named_tensors(value))
    mapped = map_tensors(value, lambda slot, tensor: tensor + 1)
    assert type(mapped) is type(value)
    for (slot, new), (_, old) in zip(named_tensors(mapped), before, strict=True):
        assert torch.equal(new, old + 1), slot
    after = list(named_tensors(value))
    assert all(x is y for (_, x), (_, y) in zip(before, after, strict=True))


@pytest.mark.parametrize("name", STRUCTURES)
def test_mapping_that_changes_nothing_returns_the_same_object(name):
    value, _ = STRUCTURES[name]
    assert map_tensors(value, lambda slot, tensor: tensor) is value


def test_only_what_contains_a_change_is_rebuilt():
    kept, changed = [t()], [t()]
    new = map_tensors((kept, changed), lambda s, x: x + 1 if s == "1.0" else x)
    assert new[0] is kept and new[1] is not changed


def test_attributes_of_model_outputs_follow_their_items():
    new = map_tensors(ModelOutput(logits=t()), lambda slot, tensor: tensor + 1)
    assert new.logits == 1 and new["logits"] == 1


def test_arguments_have_positions_and_keywords_have_names():
    args, kwargs = (t(), (t(), {"mask": t()})), {"cache": [t()], "flag": True}
    slots = [slot for slot, _ in named_arguments(args, kwargs)]
    assert slots == ["0", "1.0", "1.1.mask", "cache.0"]


def test_a_tensor_given_twice_is_reported_for_each_slot():
    x = t()
    assert [slot for slot, _ in named_arguments((x, x), {"y": x})] == ["0", "1", "y"]


@pytest.mark.parametrize(
    "text", ["a b", "a/b", "\n", "", "call3", "recompute", "weight", "0.call1"]
)
def test_cleaned_names_fit_into_tensor_ids(text):
    name = clean_name(text)
    TensorId(step=0, module="m", kind=Kind.INPUT, slot=name)
    assert clean_name(name) == name


def test_names_that_fit_are_left_alone():
    assert clean_name("1.mask") == "1.mask"
    assert list(named_tensors({"a b/c": t()}))[0][0] == "a_b_c"


def test_cyclic_structures_end():
    value: list = [t()]
    value.append(value)
    assert len(list(named_tensors(value))) == MAX_DEPTH
