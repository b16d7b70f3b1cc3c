"""Small models of transformers with random weights, no download."""

from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

VOCABULARY = 64


def build_model(name: str, *, seed: int, recompute: bool) -> PreTrainedModel:
    """A model of two layers, without dropout; every process makes the same one.

    Args:
        name: One of ``arguments.MODELS``.
        seed: Of the parameters.
        recompute: Checkpoint the activations of its layers.
    """
    torch.manual_seed(seed)
    model = _BUILDERS[name]()
    model.config.use_cache = False
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def block_class(name: str) -> str:
    """The class of its layers, which FSDP wraps each."""
    return {
        "gpt2": "GPT2Block",
        "llama": "LlamaDecoderLayer",
        "mixtral": "MixtralDecoderLayer",
    }[name]


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


_LLAMA_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_LLAMA_SIZES))


def _mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(
        MixtralConfig(**_LLAMA_SIZES, num_local_experts=4, num_experts_per_tok=2)
    )


_BUILDERS = {"gpt2": _gpt2, "llama": _llama, "mixtral": _mixtral}
