"""Converts parameters of transformers to what each port holds; in numpy.

Also the list of all differences: linen GPT-2 splits the fused projection's columns into
``[3, a, d]``; NNX GPT-2 has three kernels; Llama's linears are transposed, in linen cut
into heads besides, with gate and up in one kernel; stacked layers have a leading dim.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ttrace.examples.jax_port.config import Architecture, ModelConfig
from ttrace.examples.jax_port.layout import Flavor

Tree = dict[Any, Any]
"""Nested dicts with arrays as leaves; NNX numbers the layers with int keys."""


class _Source:
    """Parameters below one prefix."""

    def __init__(self, parameters: Mapping[str, np.ndarray], prefix: str):
        self._parameters = parameters
        self._prefix = prefix

    def __call__(self, name: str) -> np.ndarray:
        return self._parameters[f"{self._prefix}.{name}"]


def convert_parameters(
    parameters: Mapping[str, np.ndarray], config: ModelConfig, flavor: Flavor
) -> Tree:
    """The port's parameters, float32.

    Args:
        parameters: By transformers' name, as ``initial_parameters`` makes them.
        config: Of the model.
        flavor: Which port.
    """
    if config.architecture is Architecture.GPT2:
        outer = _Source(parameters, "transformer")
        block, layers = "transformer.h", "h" if flavor is Flavor.LINEN else "blocks"
        convert_block, convert_rest = {
            Flavor.LINEN: (_linen_gpt2_block, _linen_gpt2_rest),
            Flavor.NNX: (_nnx_gpt2_block, _nnx_gpt2_rest),
        }[flavor]
    else:
        outer = _Source(parameters, "model")
        block, layers = "model.layers", "layers"
        convert_block, convert_rest = {
            Flavor.LINEN: (_linen_llama_block, _linen_llama_rest),
            Flavor.NNX: (_nnx_llama_block, _nnx_llama_rest),
        }[flavor]
    tree = convert_rest(outer)
    if config.architecture is Architecture.LLAMA:
        tree["lm_head"] = {"kernel": transposed(parameters["lm_head.weight"])}
    blocks = [
        convert_block(_Source(parameters, f"{block}.{number}"), config)
        for number in range(config.num_layers)
    ]
    if config.stacked:
        return {**tree, layers: _stack(blocks)}
    if flavor is Flavor.NNX:
        return {**tree, layers: dict(enumerate(blocks))}
    return {**tree, **{f"{layers}_{i}": block for i, block in enumerate(blocks)}}


def transposed(weight: np.ndarray) -> np.ndarray:
    """The kernel ``[in, out]`` of a linear's weight ``[out, in]``."""
    return np.ascontiguousarray(weight.T)


def _stack(blocks: list[Tree]) -> Tree:
    first = blocks[0]
    return {
        key: _stack([block[key] for block in blocks])
        if isinstance(first[key], dict)
        else np.stack([block[key] for block in blocks])
        for key in first
    }


def _norm(source: _Source, name: str) -> Tree:
    return {"scale": source(f"{name}.weight"), "bias": source(f"{name}.bias")}


def _conv1d(source: _Source, name: str) -> Tree:
    return {"kernel": source(f"{name}.weight"), "bias": source(f"{name}.bias")}


def _linear(source: _Source, name: str) -> Tree:
    return {"kernel": transposed(source(f"{name}.weight"))}


def _linen_gpt2_rest(source: _Source) -> Tree:
    return {
        "wte": {"embedding": source("wte.weight")},
        "wpe": {"embedding": source("wpe.weight")},
        "ln_f": _norm(source, "ln_f"),
    }


def _linen_gpt2_block(source: _Source, config: ModelConfig) -> Tree:
    heads = (config.num_heads, config.head_size)
    fused = _conv1d(source, "attn.c_attn")
    out = _conv1d(source, "attn.c_proj")
    return {
        "ln_1": _norm(source, "ln_1"),
        "attn": {
            "c_attn": {
                "kernel": fused["kernel"].reshape(-1, 3, *heads),
                "bias": fused["bias"].reshape(3, *heads),
            },
            "c_proj": {**out, "kernel": out["kernel"].reshape(*heads, -1)},
        },
        "ln_2": _norm(source, "ln_2"),
        "mlp": {
            "c_fc": _conv1d(source, "mlp.c_fc"),
            "c_proj": _conv1d(source, "mlp.c_proj"),
        },
    }


def _nnx_gpt2_rest(source: _Source) -> Tree:
    return {
        "token_embedding": {"embedding": source("wte.weight")},
        "position_embedding": {"embedding": source("wpe.weight")},
        "final_norm": _norm(source, "ln_f"),
    }


def _nnx_gpt2_block(source: _Source, config: ModelConfig) -> Tree:
    fused = _conv1d(source, "attn.c_attn")
    kernels = np.split(fused["kernel"], 3, axis=1)
    biases = np.split(fused["bias"], 3)
    names = ("query", "key", "value")
    return {
        "attention_norm": _norm(source, "ln_1"),
        "attention": {
            **{
                name: {"kernel": kernel, "bias": bias}
                for name, kernel, bias in zip(names, kernels, biases, strict=True)
            },
            "out": _conv1d(source, "attn.c_proj"),
        },
        "mlp_norm": _norm(source, "ln_2"),
        "mlp": {
            "up": _conv1d(source, "mlp.c_fc"),
            "down": _conv1d(source, "mlp.c_proj"),
        },
    }


def _linen_llama_rest(source: _Source) -> Tree:
    return {
        "token_embedder": {"embedding": source("embed_tokens.weight")},
        "decoder_norm": {"scale": source("norm.weight")},
    }


def _linen_llama_block(source: _Source, config: ModelConfig) -> Tree:
    def heads(name: str) -> Tree:
        kernel = _linear(source, f"self_attn.{name}")["kernel"]
        return {"kernel": kernel.reshape(config.hidden_size, -1, config.head_size)}

    out = _linear(source, "self_attn.o_proj")["kernel"]
    gate, up = (
        _linear(source, f"mlp.{name}_proj")["kernel"] for name in ("gate", "up")
    )
    return {
        "pre_self_attention_norm": {"scale": source("input_layernorm.weight")},
        "self_attention": {
            "query": heads("q_proj"),
            "key": heads("k_proj"),
            "value": heads("v_proj"),
            "out": {"kernel": out.reshape(-1, config.head_size, config.hidden_size)},
        },
        "post_self_attention_norm": {
            "scale": source("post_attention_layernorm.weight")
        },
        "mlp": {
            "wi": {"kernel": np.stack([gate, up], axis=1)},
            "wo": _linear(source, "mlp.down_proj"),
        },
    }


def _nnx_llama_rest(source: _Source) -> Tree:
    return {
        "embed_tokens": {"embedding": source("embed_tokens.weight")},
        "norm": {"scale": source("norm.weight")},
    }


def _nnx_llama_block(source: _Source, config: ModelConfig) -> Tree:
    norms = ("input_layernorm", "post_attention_layernorm")
    linears = {
        "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "mlp": ("gate_proj", "up_proj", "down_proj"),
    }
    return {
        **{name: {"scale": source(f"{name}.weight")} for name in norms},
        **{
            module: {name: _linear(source, f"{module}.{name}") for name in names}
            for module, names in linears.items()
        },
    }
