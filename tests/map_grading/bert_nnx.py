"""BERT of transformers against a port in NNX with one kernel for query, key, value."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from transformers import BertConfig, BertForMaskedLM

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

D, HEADS, LAYERS, MLP, VOCAB = 24, 3, 2, 40, 37


def model() -> torch.nn.Module:
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=D, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=MLP, max_position_embeddings=16,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    return BertForMaskedLM(config)


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    return random.integers(0, VOCAB, (2, 9)), random.integers(0, VOCAB, (2, 9))


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


class Attention(nnx.Module):
    def __init__(self, rngs, bug):
        self.qkv = nnx.Linear(D, 3 * D, rngs=rngs)
        self.out = nnx.Linear(D, D, rngs=rngs)
        self.bug = bug

    def __call__(self, x):
        q, k, v = (
            part.reshape(*x.shape[:2], HEADS, -1)
            for part in jnp.split(self.qkv(x), 3, -1)
        )
        if self.bug == "heads_first":
            q = q.reshape(*x.shape[:2], -1, HEADS).swapaxes(2, 3)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        scores = scores if self.bug == "scale" else scores * (D // HEADS) ** -0.5
        if self.bug == "causal":
            mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            scores = jnp.where(mask, scores, -1e30)
        context = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)
        return self.out(context.reshape(x.shape))


class Layer(nnx.Module):
    def __init__(self, rngs, number, bug):
        self.attention = Attention(rngs, bug)
        self.norm1 = nnx.LayerNorm(D, epsilon=1e-12, rngs=rngs)
        self.up = nnx.Linear(D, MLP, rngs=rngs)
        self.down = nnx.Linear(MLP, D, rngs=rngs)
        self.norm2 = nnx.LayerNorm(D, epsilon=1e-12, rngs=rngs)
        self.number, self.bug = number, bug

    def __call__(self, x):
        if self.bug == "pre_norm":
            x = x + self.attention(self.norm1(x))
        else:
            x = self.norm1(x + self.attention(x))
        inner = jax.nn.gelu(self.up(x), approximate=self.bug == "gelu")
        skip = 0 if self.bug == "residual" and self.number == 1 else x
        return self.norm2(skip + self.down(inner))


class Bert(nnx.Module):
    def __init__(self, rngs, bug):
        eps = 1e-3 if bug == "epsilon" else 1e-12
        self.tokens = nnx.Embed(VOCAB, D, rngs=rngs)
        self.positions = nnx.Embed(16, D, rngs=rngs)
        self.types = nnx.Embed(2, D, rngs=rngs)
        self.norm = nnx.LayerNorm(D, epsilon=eps, rngs=rngs)
        self.layers = nnx.List([Layer(rngs, n, bug) for n in range(LAYERS)])
        self.transform = nnx.Linear(D, D, rngs=rngs)
        self.head_norm = nnx.LayerNorm(D, epsilon=1e-12, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(VOCAB))
        self.bug = bug

    def __call__(self, tokens):
        kind = 1 if self.bug == "token_type" else 0
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        x = self.norm(x + self.types(jnp.full_like(tokens, kind)))
        for layer in self.layers:
            x = layer(x)
        x = self.transform(x)
        if self.bug != "head_activation":
            x = jax.nn.gelu(x, approximate=False)
        return self.head_norm(x) @ self.tokens.embedding[...].T + self.bias[...]


def _load(made: Bert, weights: Weights, bug: str) -> None:
    def linear(layer, *names):
        kernel = np.concatenate([weights[f"{n}.weight"] for n in names]).T
        layer.kernel[...] = jnp.array(kernel)
        bias = np.concatenate([weights[f"{n}.bias"] for n in names])
        layer.bias[...] = jnp.array(bias)

    def norm(layer, name):
        layer.scale[...] = jnp.array(weights[f"{name}.weight"])
        layer.bias[...] = jnp.array(weights[f"{name}.bias"])

    outer = "bert.embeddings"
    for layer, name in (
        (made.tokens, "word"), (made.positions, "position"), (made.types, "token_type")
    ):  # fmt: skip
        layer.embedding[...] = jnp.array(weights[f"{outer}.{name}_embeddings.weight"])
    norm(made.norm, f"{outer}.LayerNorm")
    for number, layer in enumerate(made.layers):
        own = f"bert.encoder.layer.{number}"
        order = ("key", "query", "value") if bug == "qk_order" else (
            "query", "key", "value")  # fmt: skip
        linear(layer.attention.qkv, *(f"{own}.attention.self.{n}" for n in order))
        linear(layer.attention.out, f"{own}.attention.output.dense")
        norm(layer.norm1, f"{own}.attention.output.LayerNorm")
        linear(layer.up, f"{own}.intermediate.dense")
        linear(layer.down, f"{own}.output.dense")
        norm(layer.norm2, f"{own}.output.LayerNorm")
    linear(made.transform, "cls.predictions.transform.dense")
    norm(made.head_norm, "cls.predictions.transform.LayerNorm")


def port(weights: Weights, bug: str) -> Port:
    made = Bert(nnx.Rngs(0), bug)
    _load(made, weights, bug)
    graph, params = nnx.split(made, nnx.Param)

    def loss(params, batch):
        logits = nnx.merge(graph, params)(jnp.asarray(batch[0]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    return Port(params=params, loss=loss)


_ATTENTION = "*layer.0.attention*"

PAIR = LibraryPair(
    name="bert_nnx",
    model=model,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        heads_first=_ATTENTION,
        scale=_ATTENTION,
        causal=_ATTENTION,
        qk_order=_ATTENTION,
        pre_norm=_ATTENTION,
        gelu="*layer.0.intermediate* *layer.0.output*",
        residual="*layer.1.output* *layer.1",
        epsilon="bert.embeddings.LayerNorm bert.embeddings",
        token_type="bert.embeddings*",
        head_activation="cls.*",
    ),
)
