"""The reference: models of transformers, with given parameters, and their loss."""

from collections.abc import Mapping

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
)

from ttrace.examples.jax_port.config import Architecture, ModelConfig
from ttrace.examples.jax_port.data import IGNORED


def build_model(
    config: ModelConfig, parameters: Mapping[str, np.ndarray]
) -> PreTrainedModel:
    """A model of transformers in training mode, with these parameters."""
    is_gpt2 = config.architecture is Architecture.GPT2
    hf_config = _gpt2_config(config) if is_gpt2 else _llama_config(config)
    model = AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager")
    state = {name: torch.from_numpy(value) for name, value in parameters.items()}
    answer = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if is_gpt2 else set()
    assert not answer.unexpected_keys and set(answer.missing_keys) == tied, answer
    return model.train()


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, num_tokens: torch.Tensor
) -> torch.Tensor:
    """The summed loss of ``[b, s]`` tokens over the number of tokens of the step."""
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / num_tokens


def parameter_groups(
    model: torch.nn.Module, *, weight_decay: float
) -> list[dict[str, object]]:
    """Matrices decay, norms and biases do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _gpt2_config(config: ModelConfig) -> GPT2Config:
    return GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.seq_length,
        n_embd=config.hidden_size,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_inner=config.mlp_size,
        layer_norm_epsilon=config.norm_epsilon,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )


def _llama_config(config: ModelConfig) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.seq_length,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
