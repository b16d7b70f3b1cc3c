"""Canonical names, on small stand-ins for Megatron's modules."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from torch import nn  # noqa: E402

from ttrace.frontends.megatron_parts.names import (  # noqa: E402
    canonical_modules,
    canonical_parameters,
    unwrap,
)


class Wrapper(nn.Module):
    """DistributedDataParallel and Float16Module hold the model like this."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


class Experts(nn.Module):
    def __init__(self, num_local_experts: int):
        super().__init__()
        self.num_local_experts = num_local_experts
        self.local_experts = nn.ModuleList(
            nn.Linear(1, 1) for _ in range(num_local_experts)
        )


class MoELayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_local_experts = 2
        self.router = nn.Linear(1, 1)
        self.experts = Experts(2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear_proj = nn.Linear(1, 1)
        self.linear_qkv = nn.Linear(1, 1)


class Layer(nn.Module):
    def __init__(self, layer_number: int):
        super().__init__()
        self.layer_number = layer_number
        self.self_attention = Attention()
        self.mlp = MoELayer()


class Model(nn.Module):
    """A stage that holds layers 3 and 4 of the model, and a copy of the embedding."""

    def __init__(self, *, is_tied: bool):
        super().__init__()
        self.share_embeddings_and_output_weights = is_tied
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList([Layer(3), Layer(4)])
        self.output_layer = nn.Linear(1, 1)


def _paths(model: nn.Module, ep_rank: int = 0) -> list[str]:
    return [module.path for module in canonical_modules(model, ep_rank=ep_rank)]


def test_wrappers_are_looked_through():
    model = Model(is_tied=False)
    assert unwrap(Wrapper(Wrapper(model))) is model
    assert unwrap(model) is model


def test_the_model_itself_is_root_and_comes_first():
    assert _paths(Model(is_tied=False))[:2] == ["@root", "decoder"]


def test_layers_are_numbered_over_the_whole_model():
    paths = _paths(Model(is_tied=False))
    assert "decoder.layers.2.self_attention" in paths
    assert "decoder.layers.3.mlp.router" in paths
    assert not any(path.startswith("decoder.layers.0") for path in paths)


@pytest.mark.parametrize(("ep_rank", "first"), [(0, 0), (1, 2), (3, 6)])
def test_experts_are_numbered_over_all_expert_parallel_ranks(ep_rank, first):
    paths = _paths(Model(is_tied=False), ep_rank=ep_rank)
    prefix = "decoder.layers.2.mlp.experts.local_experts"
    experts = [p for p in paths if p.startswith(f"{prefix}.")]
    assert experts == [f"{prefix}.{first}", f"{prefix}.{first + 1}"]


def test_experts_are_told_from_router_and_layer():
    modules = canonical_modules(Model(is_tied=False), ep_rank=0)
    inside = {m.path for m in modules if m.in_experts}
    assert "decoder.layers.2.mlp.experts" in inside
    assert "decoder.layers.2.mlp.experts.local_experts.1" in inside
    assert not inside & {"decoder.layers.2.mlp", "decoder.layers.2.mlp.router"}


def test_a_tied_output_layer_has_the_name_of_the_embedding():
    def names(*, is_tied: bool) -> list[str]:
        model = Model(is_tied=is_tied)
        return [
            f"{owned.named.module}.{owned.named.slot}"
            for owned in canonical_parameters(model, ep_rank=0)
        ]

    assert "embedding.word_embeddings.weight" in names(is_tied=True)
    assert "output_layer.bias" in names(is_tied=True)
    assert "output_layer.weight" in names(is_tied=False)


def test_a_tied_output_layer_beside_the_embedding_is_unused():
    # The last stage of a pipeline with multi-token prediction has both.
    model = Model(is_tied=True)
    embedding = nn.Module()
    embedding.word_embeddings = nn.Embedding(1, 1)
    del model.output_layer
    model.embedding, model.output_layer = embedding, nn.Linear(1, 1, bias=False)
    found = {
        f"{owned.named.module}.{owned.named.slot}": owned.is_unused
        for owned in canonical_parameters(model, ep_rank=0)
        if owned.named.module.startswith(("embedding", "output_layer"))
    }
    assert found == {
        "embedding.word_embeddings.weight": False,
        "output_layer.weight": True,
    }


def test_parameters_come_in_the_order_of_a_forward():
    modules = [
        owned.named.module
        for owned in canonical_parameters(Model(is_tied=False), ep_rank=0)
    ]
    layer = "decoder.layers.2."
    order = ["self_attention.linear_qkv", "self_attention.linear_proj", "mlp.router"]
    positions = [modules.index(layer + name) for name in order]
    assert positions == sorted(positions)


def test_a_shared_parameter_is_named_once():
    model = Model(is_tied=False)
    model.output_layer.weight = model.get_parameter(
        "decoder.layers.0.mlp.router.weight"
    )
    parameters = [o.named.parameter for o in canonical_parameters(model, ep_rank=0)]
    assert len(parameters) == len(set(parameters))


@pytest.mark.parametrize(
    "names",
    [
        "linear_qkv q_layernorm k_layernorm core_attention linear_proj",
        "rotary_pos_emb linear_q_down_proj linear_kv_down_proj q_layernorm "
        "kv_layernorm linear_q_up_proj linear_kv_up_proj core_attention linear_proj",
    ],
)
def test_parts_of_attention_are_in_the_order_of_their_calls(names):
    """Whatever the order in which the classes of attention register them."""
    attention = nn.Module()
    first = ("core_attention", "linear_proj")
    for name in (*first, *(name for name in names.split() if name not in first)):
        attention.add_module(name, nn.Linear(1, 1))
    modules = list(canonical_modules(attention, ep_rank=0))
    assert [module.path for module in modules] == ["@root", *names.split()]


def test_a_module_knows_what_it_is_part_of():
    """Lists of modules are looked through."""
    model = Model(is_tied=False)
    modules = {module.path: module for module in canonical_modules(model, ep_rank=0)}
    assert modules["@root"].parent is None
    layer = modules["decoder.layers.2"]
    assert layer.parent is modules["decoder"].module
    attention = modules["decoder.layers.2.self_attention"]
    assert attention.parent is layer.module
    assert (attention.name, layer.name) == ("self_attention", "2")
