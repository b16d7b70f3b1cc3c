"""Initial parameters under the names of transformers, from the consistent generator."""

from collections.abc import Iterator

import numpy as np

from ttrace.examples.jax_port.config import Architecture, ModelConfig
from ttrace.generate import Bell, generate

Shape = tuple[int, ...]


def initial_parameters(config: ModelConfig, *, seed: int = 0) -> dict[str, np.ndarray]:
    """The parameters that both sides start from, float32, by transformers' name.

    None is constant or tiny, biases and norms neither: a parameter that is read wrongly
    changes the result. GPT-2's tied head is not among them.
    """
    return {
        name: generate(name, _distribution(name), shape, seed=seed)
        for name, shape in parameter_shapes(config)
    }


def parameter_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes in transformers."""
    if config.architecture is Architecture.GPT2:
        return _gpt2_shapes(config)
    return _llama_shapes(config)


def _distribution(name: str) -> Bell:
    *_, module, slot = name.split(".")
    is_norm = module.startswith("ln_") or module.endswith("norm")
    if is_norm and slot == "weight":
        return Bell(scale=2.0**-3, offset=1.0)
    return Bell(scale=2.0**-3)


def _gpt2_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config.hidden_size, config.mlp_size
    yield "transformer.wte.weight", (config.vocab_size, hidden)
    yield "transformer.wpe.weight", (config.seq_length, hidden)
    for layer in range(config.num_layers):
        block = f"transformer.h.{layer}"
        for norm in ("ln_1", "ln_2"):
            yield f"{block}.{norm}.weight", (hidden,)
            yield f"{block}.{norm}.bias", (hidden,)
        # Conv1D, unlike nn.Linear, holds [in, out].
        for linear, shape in (
            ("attn.c_attn", (hidden, 3 * hidden)),
            ("attn.c_proj", (hidden, hidden)),
            ("mlp.c_fc", (hidden, inner)),
            ("mlp.c_proj", (inner, hidden)),
        ):
            yield f"{block}.{linear}.weight", shape
            yield f"{block}.{linear}.bias", shape[1:]
    yield "transformer.ln_f.weight", (hidden,)
    yield "transformer.ln_f.bias", (hidden,)


def _llama_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config.hidden_size, config.mlp_size
    kv_size = config.num_kv_heads * config.head_size
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_layers):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", (hidden,)
        yield f"{block}.self_attn.q_proj.weight", (hidden, hidden)
        yield f"{block}.self_attn.k_proj.weight", (kv_size, hidden)
        yield f"{block}.self_attn.v_proj.weight", (kv_size, hidden)
        yield f"{block}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{block}.post_attention_layernorm.weight", (hidden,)
        yield f"{block}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{block}.mlp.up_proj.weight", (inner, hidden)
        yield f"{block}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config.vocab_size, hidden)
