"""The encoder of T5 of transformers against linen; relative positions in layer 0."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from transformers import T5Config, T5EncoderModel

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

D, HEADS, SIZE, LAYERS, VOCAB, MLP, CLASSES = 24, 3, 8, 2, 37, 40, 5
BUCKETS = 8


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = T5EncoderModel(
            T5Config(
                vocab_size=VOCAB,
                d_model=D,
                d_kv=SIZE,
                d_ff=MLP,
                num_layers=LAYERS,
                num_heads=HEADS,
                relative_attention_num_buckets=BUCKETS,
                relative_attention_max_distance=16,
                dropout_rate=0,
                feed_forward_proj="gated-gelu",
            )  # fmt: skip
        )
        self.head = torch.nn.Linear(D, CLASSES)

    def forward(self, tokens):
        return self.head(self.model(input_ids=tokens).last_hidden_state)


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    return random.integers(0, VOCAB, (2, 9)), random.integers(0, CLASSES, (2, 9))


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


def _buckets(length: int, bug: str) -> np.ndarray:
    position = np.arange(length)
    distance = position[None, :] - position[:, None]
    if bug == "bucket_sign":
        distance = -distance
    half = BUCKETS // 2
    bucket = np.where(distance > 0, half, 0)
    distance = np.abs(distance)
    exact = half // 2
    longest = 128 if bug == "max_distance" else 16
    ratio = np.log(np.maximum(distance, 1) / exact) / np.log(longest / exact)
    large = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    return bucket + np.where(distance < exact, distance, large)


class Norm(nn.Module):
    bug: str = ""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (D,))
        if self.bug == "mean_norm":
            x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


class Attention(nn.Module):
    bug: str

    @nn.compact
    def __call__(self, x, bias):
        def heads(name):
            return nn.DenseGeneral((HEADS, SIZE), use_bias=False, name=name)(x)

        q, k, v = heads("q"), heads("k"), heads("v")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        scores = scores * SIZE**-0.5 if self.bug == "scale" else scores
        context = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores + bias), v)
        return nn.DenseGeneral(D, axis=(-2, -1), use_bias=False, name="o")(context)


class Layer(nn.Module):
    number: int
    bug: str

    @nn.compact
    def __call__(self, x, bias):
        h = Norm(self.bug, name="norm1")(x)
        x = x + Attention(self.bug, name="attention")(h, bias)
        h = Norm(name="norm2")(x)
        gate = nn.gelu(
            nn.Dense(MLP, use_bias=False, name="gate")(h),
            approximate=self.bug != "exact_gelu",
        )
        up = nn.Dense(MLP, use_bias=False, name="up")(h)
        inner = up if self.bug == "no_gate" else gate * up
        y = nn.Dense(D, use_bias=False, name="down")(inner)
        return y if self.bug == "residual" and self.number == 1 else x + y


class Encoder(nn.Module):
    bug: str

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCAB, D, name="embed")(tokens)
        if self.bug == "embed_scale":
            x = x * D**0.5
        buckets = _buckets(tokens.shape[1], self.bug)
        bias = nn.Embed(BUCKETS, HEADS, name="relative")(buckets).transpose(2, 0, 1)
        for number in range(LAYERS):
            used = 0 * bias if self.bug == "bias_once" and number else bias
            x = Layer(number, self.bug, name=f"layers_{number}")(x, used)
        x = Norm(name="norm")(x) if self.bug != "no_final_norm" else x
        return nn.Dense(CLASSES, name="head")(x)


def port(weights: Weights, bug: str) -> Port:
    outer = "model.encoder"
    tree: dict = {
        "embed": {"embedding": weights["model.shared.weight"]},
        "norm": {"scale": weights[f"{outer}.final_layer_norm.weight"]},
        "head": {"kernel": weights["head.weight"].T, "bias": weights["head.bias"]},
    }
    for n in range(LAYERS):
        own = f"{outer}.block.{n}.layer"
        attention = f"{own}.0.SelfAttention"
        kernels = {}
        for name in "qkv":
            kernel = weights[f"{attention}.{name}.weight"].T
            kernels[name] = {"kernel": kernel.reshape(D, HEADS, SIZE)}
        out = weights[f"{attention}.o.weight"].T.reshape(HEADS, SIZE, D)
        dense = f"{own}.1.DenseReluDense"
        tree[f"layers_{n}"] = {
            "norm1": {"scale": weights[f"{own}.0.layer_norm.weight"]},
            "norm2": {"scale": weights[f"{own}.1.layer_norm.weight"]},
            "attention": kernels | {"o": {"kernel": out}},
            "gate": {"kernel": weights[f"{dense}.wi_0.weight"].T},
            "up": {"kernel": weights[f"{dense}.wi_1.weight"].T},
            "down": {"kernel": weights[f"{dense}.wo.weight"].T},
        }
    relative = f"{outer}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tree["relative"] = {"embedding": weights[relative]}
    if bug == "no_final_norm":
        del tree["norm"]
    module = Encoder(bug)

    def loss(params, batch):
        logits: Any = module.apply({"params": params}, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    return Port(params=tree, loss=loss)


_ATTENTION = "*block.0.layer.0*"

PAIR = LibraryPair(
    name="t5_linen",
    model=Reference,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        scale=_ATTENTION,
        bucket_sign=_ATTENTION,
        max_distance=_ATTENTION,
        mean_norm="*block.0.layer.0.layer_norm",
        exact_gelu="*block.0.layer.1*",
        no_gate="*block.0.layer.1*",
        residual="*block.1 *block.1.layer.1* *encoder.final_layer_norm",
        embed_scale="*block.0 *block.0.layer.0* *embed* model.shared *dropout",
        bias_once="*block.1.layer.0*",
        no_final_norm="*final_layer_norm head",
    ),
)
