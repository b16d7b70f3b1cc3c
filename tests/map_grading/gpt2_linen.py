"""GPT-2 of transformers against a port in flax linen with heads of their own."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

D, HEADS, LAYERS, VOCAB = 24, 3, 2, 37


def model() -> torch.nn.Module:
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=16, n_embd=D, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    tokens = random.integers(0, VOCAB, (2, 11))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


class Block(nn.Module):
    number: int
    bug: str

    @nn.compact
    def __call__(self, x):
        eps = 1e-3 if self.bug == "epsilon" else 1e-5
        h = nn.LayerNorm(eps, name="norm1")(x)
        x = x + Attention(self.number, self.bug, name="attn")(h)
        h = nn.LayerNorm(1e-5, name="norm2")(x)
        inner = nn.Dense(4 * D, name="up")(h)
        inner = nn.gelu(inner, approximate=self.bug != "gelu")
        y = nn.Dense(D, name="down", use_bias=self.bug != "no_bias")(inner)
        if self.bug == "residual" and self.number == 1:
            return h + y
        return x + y


class Attention(nn.Module):
    number: int
    bug: str

    @nn.compact
    def __call__(self, h):
        q, k, v = (
            nn.DenseGeneral((HEADS, D // HEADS), name=n)(h)
            for n in ("query", "key", "value")
        )
        scale = 1.0 if self.bug == "scale" else (D // HEADS) ** -0.5
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale
        offset = 1 if self.bug == "mask" else 0
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool), offset)
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
        context = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        if self.bug == "merge":
            context = context.transpose(0, 1, 3, 2)
        return nn.Dense(D, name="out")(context.reshape(*h.shape))


class Gpt2(nn.Module):
    bug: str

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCAB, D, name="tokens")
        first = 1 if self.bug == "positions" else 0
        positions = jnp.arange(first, first + tokens.shape[1])
        x = embed(tokens) + nn.Embed(16, D, name="positions")(positions)
        for number in range(LAYERS):
            x = Block(number, self.bug, name=f"block_{number}")(x)
        if self.bug != "no_final_norm":
            x = nn.LayerNorm(1e-5, name="norm")(x)
        return embed.attend(x)


def convert(weights: Weights, bug: str) -> dict:
    def norm(name):
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def dense(name):
        return {"kernel": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    tree: dict[str, Any] = {
        "tokens": {"embedding": weights["transformer.wte.weight"]},
        "positions": {"embedding": weights["transformer.wpe.weight"]},
        "norm": norm("transformer.ln_f"),
    }
    for number in range(LAYERS):
        source = LAYERS - 1 - number if bug == "layers_swapped" else number
        own = f"transformer.h.{source}"
        kernel = weights[f"{own}.attn.c_attn.weight"].reshape(D, 3, HEADS, -1)
        bias = weights[f"{own}.attn.c_attn.bias"].reshape(3, HEADS, -1)
        order = (1, 0, 2) if bug == "qk_swapped" else (0, 1, 2)
        attention = {
            name: {"kernel": kernel[:, n], "bias": bias[n]}
            for name, n in zip(("query", "key", "value"), order, strict=True)
        }
        out = dense(f"{own}.attn.c_proj")
        tree[f"block_{number}"] = {
            "attn": attention | {"out": out},
            "norm1": norm(f"{own}.ln_1"),
            "norm2": norm(f"{own}.ln_2"),
            "up": dense(f"{own}.mlp.c_fc"),
            "down": dense(f"{own}.mlp.c_proj"),
        }
        if bug == "no_bias":
            del tree[f"block_{number}"]["down"]["bias"]
    if bug == "no_final_norm":
        del tree["norm"]
    return tree


def port(weights: Weights, bug: str) -> Port:
    module = Gpt2(bug)

    def loss(params, batch):
        logits: Any = module.apply({"params": params}, batch[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return losses.mean()

    return Port(params=convert(weights, bug), loss=loss)


PAIR = LibraryPair(
    name="gpt2_linen",
    model=model,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        scale="*h.0.attn*",
        mask="*h.0.attn*",
        merge="*h.0.attn*",
        gelu="*h.0.mlp*",
        epsilon="*h.0.ln_1",
        residual="*h.1 *h.1.* *ln_f",
        positions="*wpe",
        no_final_norm="*ln_f lm_head @root",
        no_bias="*h.?.mlp.c_proj *h.0.mlp*",
        qk_swapped="*h.0.attn*",
        layers_swapped="*h.?.attn* *h.?.mlp* *h.0* *h.?.*",
    ),
)
