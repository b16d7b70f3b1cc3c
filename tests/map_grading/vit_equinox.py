"""ViT of transformers against a port in equinox, whose layers see one sample."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from transformers import ViTConfig, ViTForImageClassification

from tests.map_grading.pair import LibraryPair, Port, Weights, mistakes

D, HEADS, LAYERS, MLP, CLASSES, PATCH, SIDE = 24, 3, 2, 40, 7, 4, 12


def model() -> torch.nn.Module:
    config = ViTConfig(
        hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=MLP, image_size=SIDE, patch_size=PATCH,
        num_labels=CLASSES,  # pyright: ignore[reportCallIssue]
        hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    made = ViTForImageClassification(config)
    for name, parameter in made.named_parameters():  # as after some training
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, 1.0 if "weight" in name else 0.0, 0.1)
    return made


def batch(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    pixels = random.normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    return pixels, random.integers(0, CLASSES, 2)


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    logits = model(batch[0]).logits
    return torch.nn.functional.cross_entropy(logits, batch[1])


class Attention(eqx.Module):
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    bug: str = eqx.field(static=True)

    def __call__(self, x):
        def heads(layer):
            return jax.vmap(layer)(x).reshape(x.shape[0], HEADS, -1)

        q, k, v = heads(self.query), heads(self.key), heads(self.value)
        size = D if self.bug == "scale" else D // HEADS
        scores = jnp.einsum("qhd,khd->hqk", q, k) * size**-0.5
        axis = 1 if self.bug == "softmax" else 2
        weights = jax.nn.softmax(scores, axis=axis)
        context = jnp.einsum("hqk,khd->qhd", weights, v).reshape(x.shape)
        return jax.vmap(self.out)(context)


class Layer(eqx.Module):
    before: eqx.nn.LayerNorm
    attention: Attention
    after: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    number: int = eqx.field(static=True)
    bug: str = eqx.field(static=True)

    def __call__(self, x):
        h = jax.vmap(self.before)(x)
        y = x + self.attention(x if self.bug == "unnormed" else h)
        h = jax.vmap(self.after)(y)
        inner = jax.nn.gelu(jax.vmap(self.up)(h), approximate=self.bug == "gelu")
        if self.bug == "residual" and self.number == 1:
            return jax.vmap(self.down)(inner)
        return y + jax.vmap(self.down)(inner)


class Vit(eqx.Module):
    patches: eqx.nn.Conv2d
    class_token: jax.Array
    positions: jax.Array
    layers: list[Layer]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    bug: str = eqx.field(static=True)

    def __call__(self, pixels):
        x = self.patches(pixels)
        if self.bug == "patch_order":
            x = x.transpose(0, 2, 1)
        x = x.reshape(D, -1).T
        shift = 1 if self.bug == "positions" else 0
        x = jnp.concatenate([self.class_token, x]) + jnp.roll(self.positions, shift, 0)
        for layer in self.layers:
            x = layer(x)
        x = jax.vmap(self.norm)(x)
        return self.head(x.mean(0) if self.bug == "pooling" else x[0])


def _linear(weights: Weights, name: str) -> eqx.nn.Linear:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    made = eqx.nn.Linear(weight.shape[1], weight.shape[0], key=jax.random.key(0))
    return eqx.tree_at(
        lambda m: (m.weight, m.bias), made, (jnp.array(weight), jnp.array(bias))
    )


def _norm(weights: Weights, name: str, eps: float) -> eqx.nn.LayerNorm:
    made = eqx.nn.LayerNorm(D, eps=eps)
    new = jnp.array(weights[f"{name}.weight"]), jnp.array(weights[f"{name}.bias"])
    return eqx.tree_at(lambda m: (m.weight, m.bias), made, new)


def _paths(weights: Weights) -> dict[str, str]:
    """Names of the parts of layer 0, whatever this version calls them."""
    found = {}
    for name in weights:
        if ".layer.0." not in name and ".layers.0." not in name:
            continue
        stem = name.rpartition(".")[0]
        last = name.split(".")
        key = ".".join(last[-3:-1])
        for word, part in (
            ("query", "query"), ("q_proj", "query"), ("key", "key"),
            ("k_proj", "key"), ("value", "value"), ("v_proj", "value"),
            ("attention.output.dense", "out"), ("o_proj", "out"),
            ("layernorm_before", "before"), ("layernorm_after", "after"),
            ("intermediate.dense", "up"), ("fc1", "up"), ("fc2", "down"),
        ):  # fmt: skip
            if word in stem and (word not in ("key",) or "key" in key):
                found.setdefault(part, stem)
        if stem.endswith("0.output.dense"):
            found["down"] = stem
    return found


def port(weights: Weights, bug: str) -> Port:
    paths = _paths(weights)
    eps = 1e-3 if bug == "epsilon" else 1e-12
    layers = []
    for number in range(LAYERS):
        name = {p: s.replace(".0.", f".{number}.", 1) for p, s in paths.items()}
        if bug == "kv_swapped":
            name["key"], name["value"] = name["value"], name["key"]
        parts = ("query", "key", "value", "out", "up", "down")
        linear = {part: _linear(weights, name[part]) for part in parts}
        layers.append(
            Layer(
                before=_norm(weights, name["before"], eps),
                attention=Attention(
                    **{part: linear[part] for part in parts[:4]}, bug=bug
                ),
                after=_norm(weights, name["after"], 1e-12),
                up=linear["up"],
                down=linear["down"],
                number=number,
                bug=bug,
            )
        )
    patches = "vit.embeddings.patch_embeddings.projection"
    conv = eqx.nn.Conv2d(3, D, PATCH, PATCH, key=jax.random.key(0))
    kernel, bias = weights[f"{patches}.weight"], weights[f"{patches}.bias"]
    made = Vit(
        patches=eqx.tree_at(
            lambda m: (m.weight, m.bias),
            conv,
            (jnp.array(kernel), jnp.array(bias).reshape(-1, 1, 1)),
        ),
        class_token=jnp.array(weights["vit.embeddings.cls_token"][0]),
        positions=jnp.array(weights["vit.embeddings.position_embeddings"][0]),
        layers=layers,
        norm=_norm(weights, "vit.layernorm", 1e-12),
        head=_linear(weights, "classifier"),
        bug=bug,
    )
    params, static = eqx.partition(made, eqx.is_array)

    def loss(params, batch):
        logits = jax.vmap(eqx.combine(params, static))(batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    return Port(params=params, loss=loss)


_IN_LAYER = "*layer*.0.attention*"

PAIR = LibraryPair(
    name="vit_equinox",
    model=model,
    batch=batch,
    loss=loss,
    port=port,
    mistakes=mistakes(
        scale=_IN_LAYER,
        softmax=_IN_LAYER,
        unnormed=_IN_LAYER,
        gelu="*layer*.0.mlp* *layer*.0.output* *layer*.0.intermediate* *layer*.0",
        epsilon="*layer*.0.layernorm_before",
        residual="*layer*.1 *layer*.1.* vit.layernorm",
        patch_order="vit.embeddings* *layer*.0.layernorm_before *layer*.0",
        positions="vit.embeddings* *layer*.0.layernorm_before *layer*.0",
        pooling="classifier @root",
        kv_swapped=_IN_LAYER,
    ),
)
