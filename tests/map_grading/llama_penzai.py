"""Llama of transformers against that of penzai: positions for names, named axes."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from penzai import pz  # pyright: ignore[reportMissingImports]
from penzai.models.transformer.variants import (  # pyright: ignore[reportMissingImports]
    llamalike_common,
)
from transformers import LlamaConfig, LlamaForCausalLM

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

D, HEADS, GROUPS, LAYERS, VOCAB, MLP = 24, 4, 2, 2, 37, 40


def model() -> torch.nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=D,
            intermediate_size=MLP,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=GROUPS,
            max_position_embeddings=32,
            rms_norm_eps=1e-6,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]
            bos_token_id=0,
            eos_token_id=1,
        )  # fmt: skip
    )


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    tokens = random.integers(0, VOCAB, (2, 11))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


def _changed(weights: Weights, bug: str) -> Weights:
    weights = dict(weights)
    for i in range(LAYERS):
        own = f"model.layers.{i}"
        if bug == "gate_up_swapped":
            a, b = f"{own}.mlp.gate_proj.weight", f"{own}.mlp.up_proj.weight"
            weights[a], weights[b] = weights[b], weights[a]
        if bug == "query_groups":
            name = f"{own}.self_attn.q_proj.weight"
            grouped = weights[name].reshape(HEADS // GROUPS, GROUPS, D // HEADS, D)
            weights[name] = grouped.transpose(1, 0, 2, 3).reshape(D, D)
    if bug == "head_tied":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def port(weights: Weights, bug: str) -> Port:
    config = SimpleNamespace(
        hidden_size=D, intermediate_size=MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, vocab_size=VOCAB,
        rope_theta=1000.0 if bug == "rope_base" else 10000.0,
        rms_norm_eps=1e-3 if bug == "epsilon" else 1e-6,
    )  # fmt: skip
    source = SimpleNamespace(
        config=config,
        dtype=torch.float32,
        state_dict=lambda: {
            n: torch.from_numpy(v.copy()) for n, v in _changed(weights, bug).items()
        },
    )
    made = llamalike_common.llamalike_from_huggingface_model(source)
    made = _with_mistake(made, bug)
    unbound, params = pz.unbind_params(made, freeze=True)

    def loss(params, batch):
        bound = pz.bind_variables(unbound, params)
        tokens = pz.nx.wrap(jnp.asarray(batch[0])).tag("batch", "seq")
        positions = pz.nx.arange("seq", batch[0].shape[1])
        logits = bound(tokens, token_positions=positions)
        logits = logits.unwrap("batch", "seq", "vocabulary")
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    return Port(params=params, loss=loss, scopes=True)


def _with_mistake(made, bug: str):
    def replaced(kind, change):
        return made.select().at_instances_of(kind).apply(change)

    if bug == "scale":
        one = jnp.float32(1)
        return replaced(
            pz.nn.ConstantRescale, lambda layer: dataclasses.replace(layer, by=one)
        )
    if bug == "activation":
        return replaced(pz.nn.Elementwise, lambda _: pz.nn.Elementwise(jax.nn.gelu))
    if bug == "mask":
        return replaced(pz.nn.ApplyCausalAttentionMask, lambda _: pz.nn.Identity())
    layers = made.body.sublayers
    if bug == "no_final_norm":
        layers[-2] = pz.nn.Identity()
    if bug == "key_without_rope":
        for block in layers[1 : 1 + LAYERS]:
            attention = block.sublayers[0].delta.sublayers[1]
            attention.input_to_key.sublayers.pop(1)
    if bug == "residual":
        layers[LAYERS].sublayers[1] = layers[LAYERS].sublayers[1].delta
    return made


PAIR = LibraryPair(
    name="llama_penzai",
    model=model,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        scale="*layers.0.self_attn*",
        mask="*layers.0.self_attn*",
        activation="*layers.0.mlp*",
        epsilon="*layers.0.input_layernorm",
        rope_base="*rotary* *layers.0.self_attn*",
        key_without_rope="*layers.0.self_attn*",
        residual="*layers.1 *layers.1.* model.norm",
        no_final_norm="model.norm lm_head",
        gate_up_swapped="*layers.0.mlp*",
        query_groups="*layers.0.self_attn*",
        head_tied="lm_head",
    ),
)
