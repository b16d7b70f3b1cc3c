"""What the description of a model makes of what it does not know, or cannot do."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from absl import logging  # noqa: E402
from torch import nn  # noqa: E402

from ttrace.frontends import megatron_rules  # noqa: E402
from ttrace.frontends.megatron_parts import description as description_module  # noqa: E402
from ttrace.frontends.megatron_parts.description import (  # noqa: E402
    MegatronDescription,
)
from ttrace.frontends.megatron_parts.meshes import MegatronMeshes  # noqa: E402
from ttrace.frontends.torch_parts.description import NoLayout  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import Mesh, ShardLayout  # noqa: E402

TP2 = {
    "dense": {"pp": 1, "dp": 1, "cp": 1, "tp": 2},
    "expert": {"pp": 1, "edp": 1, "ep": 1, "etp": 2},
}


class TransformerLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(4)
        self.mlp = ColumnParallelLinear()


class ColumnParallelLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4))


class BaseMoELayer(nn.Module):
    """Lacks all that experts have."""


class GPTModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = TransformerLayer()
        self.moe = BaseMoELayer()


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: texts.append(text % args)
    )
    return texts


@pytest.fixture
def describe(monkeypatch, warnings):
    """Describes a model on the first of two tensor-parallel ranks."""
    config = SimpleNamespace(
        sequence_parallel=True,
        gated_linear_unit=False,
        num_query_groups=4,
        hidden_size=4,
        gradient_accumulation_fusion=False,
    )
    meshes = MegatronMeshes(
        **{
            name: Mesh(name=name, sizes=sizes, coords=dict.fromkeys(sizes, 0))
            for name, sizes in TP2.items()
        }
    )
    for name, value in (
        ("get_model_config", config),
        ("meshes_of_this_rank", meshes),
        ("require_supported_version", None),
    ):
        monkeypatch.setattr(description_module, name, lambda *args, value=value: value)

    def make(**options) -> tuple[GPTModel, MegatronDescription]:
        model = GPTModel()
        return model, MegatronDescription(model, **options)

    return make


def norm_output(model, description, length):
    return description.activation_layout(
        "layer.input_layernorm",
        model.layer.input_layernorm,
        Kind.OUTPUT,
        "0",
        (length, 2, 4),
    )


def note_tokens(model, description, length):
    description.activation_layout("@root", model, Kind.INPUT, "0", (2, length))


def test_the_length_of_the_sequence_is_learned_from_the_arguments(describe):
    model, description = describe()
    gathered = norm_output(model, description, 8)
    assert isinstance(gathered, ShardLayout) and gathered.global_shape == (16, 2, 4)
    note_tokens(model, description, 8)
    gathered = norm_output(model, description, 8)
    assert isinstance(gathered, NoLayout)
    assert "does not fit output 0 of LayerNorm in TransformerLayer" in gathered.reason
    assert "(expected 8, got 16)" in gathered.reason
    sharded = norm_output(model, description, 4)
    assert isinstance(sharded, ShardLayout) and sharded.global_shape == (8, 2, 4)


def test_lengths_that_vary_say_nothing(describe):
    model, description = describe()
    for length in (8, 6):
        note_tokens(model, description, length)
    assert isinstance(norm_output(model, description, 8), ShardLayout)


def test_features_other_than_the_model_has_accuse_the_rule(describe):
    model, description = describe()
    layout = description.activation_layout(
        "layer", model.layer, Kind.OUTPUT, "0", (4, 2, 5)
    )
    assert isinstance(layout, NoLayout) and "(expected 4, got 5)" in layout.reason


def test_unmarked_parameters_are_told_of_once(describe, warnings):
    describe()
    (text,) = [text for text in warnings if "tensor-parallel parameters" in text]
    assert "1 tensor-parallel parameters (the first is layer.mlp.weight)" in text


def test_a_failure_of_ours_skips_and_says_whose_it_is(describe, monkeypatch):
    def fail(*args, **kwargs):
        raise AttributeError("no such size")

    model, description = describe()
    monkeypatch.setattr(description_module, "activation_layout", fail)
    monkeypatch.setattr(description_module, "parameter_layout", fail)
    (named, *_) = description.parameters()
    for layout in (
        norm_output(model, description, 4),
        description.parameter_layout(named, Kind.PARAM),
    ):
        assert isinstance(layout, NoLayout)
        assert "AttributeError: no such size" in layout.reason
        assert "a mistake of ttrace, not of the run" in layout.reason


def test_experts_that_cannot_be_described_end_no_run(describe, warnings):
    _, description = describe()
    assert description.expert_rows() == []
    assert "moe.experts" in warnings[-1] and "mistake of ttrace" in warnings[-1]


def test_a_rule_of_the_user_that_fails_is_named_as_theirs(describe):
    def condition(module, context):
        raise KeyError("width")

    rule = megatron_rules.Rule(
        module="LayerNorm",
        direction=megatron_rules.Direction.OUTPUT,
        dims="s b h",
        when=condition,
    )
    model, description = describe(rules=[rule])
    layout = norm_output(model, description, 4)
    assert isinstance(layout, NoLayout)
    assert "a rule that was given to trace() failed on output 0" in layout.reason
    assert "KeyError: 'width'; correct it" in layout.reason


def test_rules_of_the_user_come_first_and_are_taken_as_they_are(describe):
    rule = megatron_rules.Rule(
        module="LayerNorm",
        direction=megatron_rules.Direction.PARAMETER,
        dims="h[tp]",
    )
    model, description = describe(rules=[rule])
    named = next(n for n in description.parameters() if "layernorm" in n.module)
    layout = description.parameter_layout(named, Kind.MAIN_GRAD)
    assert isinstance(layout, ShardLayout) and layout.global_shape == (8,)
