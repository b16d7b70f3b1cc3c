"""A port that starts from Megatron's parameters, and steps as Megatron does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ttrace.examples.jax_port import jax_train
from ttrace.examples.jax_port.arguments import parse_jax_arguments
from ttrace.examples.jax_port.config import Architecture, map_path, small_config
from ttrace.examples.jax_port.initialization import starting_parameters
from ttrace.examples.jax_port.layout import Flavor
from ttrace.examples.jax_port.optimization import clip_by_norm
from ttrace.examples.jax_port.parameters import initial_parameters
from ttrace.examples.jax_port.training import LinenTraining, build_training
from ttrace.examples.megatron_gpt.initial_values import initial_distribution
from ttrace.generate import generate

HIDDEN, HEADS, KV_HEADS, DIM = 64, 8, 4, 8


def of_megatron(module: str, slot: str, shape: tuple[int, ...]) -> np.ndarray:
    distribution = initial_distribution(module, slot)
    return generate(f"{module}.{slot}", distribution, shape, seed=3)


def start(architecture: Architecture, flavor: Flavor):
    return starting_parameters(
        small_config(architecture),
        flavor,
        initial_map=map_path(f"megatron_{architecture}_{flavor}"),
        seed=3,
    )


def test_interleaved_heads_are_taken_apart():
    layer = "decoder.layers.1.self_attention.linear_qkv"
    fused = of_megatron(layer, "weight", (3 * HIDDEN, HIDDEN))
    bias = of_megatron(layer, "bias", (3 * HIDDEN,)).reshape(HEADS, 3, DIM)
    apart = fused.reshape(HEADS, 3, DIM, HIDDEN)
    linen = start(Architecture.GPT2, Flavor.LINEN)["h_1"]["attn"]["c_attn"]
    np.testing.assert_array_equal(linen["kernel"], apart.transpose(3, 1, 0, 2))
    np.testing.assert_array_equal(linen["bias"], bias.transpose(1, 0, 2))
    nnx = start(Architecture.GPT2, Flavor.NNX)["blocks"][1]["attention"]
    for number, name in enumerate(("query", "key", "value")):
        kernel = apart[:, number].reshape(HIDDEN, HIDDEN).T
        np.testing.assert_array_equal(nnx[name]["kernel"], kernel)


def test_interleaved_groups_are_taken_apart():
    layer = "decoder.layers.0.self_attention.linear_qkv"
    fused = of_megatron(layer, "weight", (2 * HIDDEN, HIDDEN))
    groups = fused.reshape(KV_HEADS, 4, DIM, HIDDEN)
    linen = start(Architecture.LLAMA, Flavor.LINEN)["layers_0"]["self_attention"]
    nnx = start(Architecture.LLAMA, Flavor.NNX)["layers"][0]["self_attn"]
    for name, part in (
        ("query", slice(2)),
        ("key", slice(2, 3)),
        ("value", slice(3, 4)),
    ):
        heads = groups[:, part].reshape(-1, DIM, HIDDEN)
        np.testing.assert_array_equal(linen[name]["kernel"], heads.transpose(2, 0, 1))
        kernel = heads.reshape(-1, HIDDEN).T
        np.testing.assert_array_equal(nnx[f"{name[0]}_proj"]["kernel"], kernel)


def test_norms_beginas_those_of_megatron():
    found = start(Architecture.LLAMA, Flavor.NNX)["norm"]["scale"]
    expected = of_megatron("decoder.final_layernorm", "weight", (HIDDEN,))
    np.testing.assert_array_equal(found, expected)


def test_without_a_map_they_are_those_of_transformers():
    args = parse_jax_arguments(["--seed", "3"])
    training = build_training(args)
    assert isinstance(training, LinenTraining)
    expected = initial_parameters(small_config(Architecture.GPT2), seed=3)
    np.testing.assert_array_equal(
        training.parameters()["wte"]["embedding"], expected["transformer.wte.weight"]
    )


def test_a_map_that_cannot_be_used(tmp_path, capsys):
    assert jax_train.main(["--initial-map", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err
    text = map_path("megatron_gpt2_linen").read_text()
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace("a b c d -> (c b d) a", "a b c d -> (c b d)"))
    assert jax_train.main(["--initial-map", str(path)]) == 2
    assert "an axis of the transform is on one side only" in capsys.readouterr().err


@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_gradients_are_clipped_as_in_torch(largest):
    # Norms of 6, 8 and, together, 10: exact, in whatever order squares are summed.
    gradients = {
        "a": np.array([[2, -4, 4]], np.float32),
        "b": np.array([[4, -4], [4, 4]], np.float32),
    }
    clip = clip_by_norm(largest)
    clipped, _ = clip.update(jax.tree.map(jnp.asarray, gradients), clip.init({}))
    parameters = [
        torch.zeros(each.shape, requires_grad=True) for each in gradients.values()
    ]
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        parameter.grad = torch.from_numpy(gradient.copy())
    torch.nn.utils.clip_grad_norm_(parameters, largest)
    for parameter, found in zip(parameters, jax.tree.leaves(clipped), strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(found, parameter.grad.numpy(), rtol=3e-7)
