"""What Megatron's configuration says of modules, and what of the whole model."""

import dataclasses
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from megatron.core.transformer.transformer_config import (  # noqa: E402
    MLATransformerConfig,
)
from torch import nn  # noqa: E402

from tests.factories.traces import memory_trace  # noqa: E402
from ttrace.frontends.megatron_parts import config_fields  # noqa: E402
from ttrace.frontends.megatron_parts.model_settings import (  # noqa: E402
    settings_of_model,
    settings_of_modules,
)
from ttrace.ir.trace import MODEL_SETTINGS  # noqa: E402
from ttrace.judge.settings.module_settings import module_differences  # noqa: E402

GROUPS = (
    *config_fields.OF_MODULES.values(),
    config_fields.OF_MODEL,
    config_fields.OF_PRECISION,
    config_fields.OF_IMPLEMENTATION,
    config_fields.SHOWN_OTHERWISE,
    config_fields.WITHOUT_EFFECT,
)


def test_every_field_of_megatron_is_of_one_group():
    named = [name for group in GROUPS for name in group]
    assert len(named) == len(set(named))
    fields = {field.name for field in dataclasses.fields(MLATransformerConfig)}
    assert fields - set(named) == set()


def test_no_group_names_what_megatron_does_not_have():
    """Older releases lack some: the newest that is supported has them all."""
    fields = {field.name for field in dataclasses.fields(MLATransformerConfig)}
    if "attention_output_gate" not in fields:
        pytest.skip("this release of megatron-core is older than 0.16.0")
    named = {name for group in GROUPS for name in group}
    assert named - fields == set()


class TopKRouter(nn.Module):
    pass


class MLP(nn.Module):
    pass


def modules(**more):
    config = SimpleNamespace(
        moe_router_pre_softmax=False,
        moe_router_topk_scaling_factor=None,
        moe_router_topk=2,
        activation_func=nn.functional.gelu,
        num_moe_experts=4,
        window_size=(4, 0),
        **more,
    )
    pairs = [("@root", nn.Module())]
    for layer in range(2):
        pairs.append((f"layers.{layer}.router", TopKRouter()))
        pairs.append((f"layers.{layer}.mlp", MLP()))
    return pairs, config


def test_settings_stand_under_the_modules_that_they_are_of():
    pairs, config = modules()
    assert settings_of_modules(pairs, config) == {
        "module.layers.*.router:moe_router_pre_softmax": "False",
        "module.layers.*.router:moe_router_topk_scaling_factor": "None",
        "module.layers.*.mlp:activation_func": "gelu",
    }
    own = SimpleNamespace(moe_router_pre_softmax=True)
    object.__setattr__(pairs[1][1], "config", own)
    found = settings_of_modules(pairs, config)
    assert found["module.layers.0.router:moe_router_pre_softmax"] == "True"
    assert found["module.layers.1.router:moe_router_pre_softmax"] == "False"


def test_what_is_of_the_model_is_among_what_makes_runs_incomparable():
    _, config = modules()
    stated = settings_of_model(config)
    assert stated["moe_router_topk"] == 2 and stated["num_moe_experts"] == 4
    assert "window_size" not in stated
    assert MODEL_SETTINGS - {"float32_matmul_precision"} <= set(stated)


def test_one_that_differs_is_told_of_the_module():
    pairs, config = modules()
    traces = []
    for factor in (None, 2.5):
        config.moe_router_topk_scaling_factor = factor
        settings = settings_of_modules(pairs, config)
        traces.append(memory_trace({}, settings=settings).info)
    (found,) = module_differences(*traces)
    assert found.sentence == (
        "moe_router_topk_scaling_factor of layers.*.router: None in the reference, 2.5 "
        "in the candidate"
    )
    assert found.is_within("layers.1.router") and not found.is_within("layers.1.mlp")
