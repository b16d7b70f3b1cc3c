"""Mixtral of transformers against plain JAX: lists of arrays, named scopes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

D, HEADS, GROUPS, LAYERS, VOCAB, MLP, EXPERTS = 24, 4, 2, 2, 37, 20, 4


def model() -> torch.nn.Module:
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCAB,
            hidden_size=D,
            intermediate_size=MLP,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=GROUPS,
            num_local_experts=EXPERTS,
            num_experts_per_tok=2,
            max_position_embeddings=32,
            sliding_window=None,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]
            bos_token_id=0,
            eos_token_id=1,
            experts_implementation="eager",  # pyright: ignore[reportCallIssue]
        )  # fmt: skip
    )


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    tokens = random.integers(0, VOCAB, (2, 11))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


def _norm(x, scale, eps=1e-5):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale


def _rope(x, base):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] / base ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _attention(p, x, bug):
    base = 1e4 if bug == "rope_base" else 1e6

    def heads(name):
        with jax.named_scope(name):
            return (x @ p[name]).reshape(*x.shape[:2], -1, D // HEADS)

    q, k, v = _rope(heads("q"), base), _rope(heads("k"), base), heads("v")
    if bug == "groups":
        k, v = (jnp.tile(t, (1, 1, HEADS // GROUPS, 1)) for t in (k, v))
    else:
        k, v = (jnp.repeat(t, HEADS // GROUPS, 2) for t in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    scores = scores if bug == "scale" else scores * (D // HEADS) ** -0.5
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), -1)
    context = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
    with jax.named_scope("o"):
        return context @ p["o"]


def _experts(p, x, bug):
    with jax.named_scope("router"):
        lower = jnp.bfloat16 if bug == "router_dtype" else x.dtype
        logits = (x.astype(lower) @ p["router"].astype(lower)).astype(x.dtype)
    top = 1 if bug == "top_one" else 2
    chosen, index = jax.lax.top_k(jax.nn.softmax(logits, -1), top)
    if bug != "not_renormalized":
        chosen = chosen / chosen.sum(-1, keepdims=True)
    act = jax.nn.gelu if bug == "activation" else jax.nn.silu
    with jax.named_scope("experts"):
        inner = jnp.einsum("bsd,efd->bsef", x, p["gate_up"])
        gate, up = inner[..., :MLP], inner[..., MLP:]
        if bug == "gate_up_order":
            gate, up = up, gate
        out = jnp.einsum("bsef,edf->bsed", act(gate) * up, p["down"])
        picked = jnp.take_along_axis(out, index[..., None], 2)
        return (picked * chosen[..., None]).sum(2)


def port(weights: Weights, bug: str) -> Port:
    layers = []
    for n in range(LAYERS):
        own = f"model.layers.{n}"
        moe = f"{own}.mlp"
        part = {
            name: weights[f"{own}.self_attn.{name}_proj.weight"].T for name in "qkvo"
        }
        part |= {
            "norm1": weights[f"{own}.input_layernorm.weight"],
            "norm2": weights[f"{own}.post_attention_layernorm.weight"],
            "router": weights[f"{moe}.gate.weight"].T,
            "gate_up": weights[f"{moe}.experts.gate_up_proj"],
            "down": weights[f"{moe}.experts.down_proj"],
        }
        layers.append(part)
    params = {
        "embed": weights["model.embed_tokens.weight"],
        "layers": layers,
        "norm": weights["model.norm.weight"],
        "head": weights["lm_head.weight"].T,
    }

    def loss(params, batch):
        with jax.named_scope("embed"):
            x = params["embed"][batch[0]]
        for number, p in enumerate(params["layers"]):
            with jax.named_scope(f"layer_{number}"):
                with jax.named_scope("norm1"):
                    h = _norm(x, p["norm1"], 1e-2 if bug == "epsilon" else 1e-5)
                with jax.named_scope("attention"):
                    y = _attention(p, h, bug)
                x = y if bug == "residual" and number == 1 else x + y
                with jax.named_scope("norm2"):
                    h = _norm(x, p["norm2"])
                with jax.named_scope("moe"):
                    y = _experts(p, h, bug)
                x = x + y
        with jax.named_scope("norm"):
            x = _norm(x, params["norm"])
        with jax.named_scope("head"):
            logits = x @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    return Port(params=params, loss=loss, scopes=True)


_ATTENTION, _MOE = "*layers.0.self_attn* *rotary*", "*layers.0.mlp*"

PAIR = LibraryPair(
    name="mixtral_plain",
    model=model,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        rope_base=_ATTENTION,
        groups=_ATTENTION,
        scale=_ATTENTION,
        router_dtype=_MOE,
        top_one=_MOE,
        not_renormalized=_MOE,
        activation=_MOE,
        gate_up_order=_MOE,
        residual="*layers.1.post_attention_layernorm *layers.1.mlp* *layers.1",
        epsilon="*layers.0.input_layernorm",
    ),
)
