"""A port of the small model of torch_quickstart to flax; --flax-epsilon is its bug."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import torch

from ttrace.examples.torch_quickstart import train as original
from ttrace.frontends import jax_capture

EPSILON = 1e-6 if "--flax-epsilon" in sys.argv else 1e-5


class Attention(nn.Module):
    @nn.compact
    def __call__(self, q, k, v):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        is_later = jnp.triu(jnp.ones(scores.shape[-2:], dtype=bool), 1)
        return nn.softmax(jnp.where(is_later, -jnp.inf, scores)) @ v


class Model(nn.Module):
    def setup(self):
        self.embed = nn.Embed(64, 32)
        self.norm = nn.LayerNorm(epsilon=EPSILON)
        self.query_key_value = nn.Dense(96)
        self.attention = Attention()
        self.logits = nn.Dense(64)

    def __call__(self, tokens):
        x = self.embed(tokens)
        q, k, v = jnp.split(self.query_key_value(self.norm(x)), 3, axis=-1)
        return self.logits(x + self.attention(q, k, v))


def converted(weights: dict[str, torch.Tensor]) -> dict:
    """Torch's parameters under flax's names; matrices transposed."""
    w = {name: jnp.asarray(value.numpy()) for name, value in weights.items()}
    dense = {"query_key_value": "qkv", "logits": "head"}
    return {
        "embed": {"embedding": w["embedding.weight"]},
        "norm": {"scale": w["norm.weight"], "bias": w["norm.bias"]},
        **{
            there: {"kernel": w[f"{here}.weight"].T, "bias": w[f"{here}.bias"]}
            for there, here in dense.items()
        },
    }


def main() -> None:
    torch.manual_seed(0)
    params = converted(original.Model(original.Attention()).state_dict())
    optimizer = optax.adamw(1e-2, weight_decay=1e-2)
    opt_state = optimizer.init(params)

    def train_step(params, opt_state, tokens):
        def loss_of(params):
            logits = jnp.asarray(Model().apply({"params": params}, tokens[:, :-1]))
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, tokens[:, 1:]
            ).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    traced_step = jax_capture.trace(jax.jit(train_step))
    for step in range(3):
        tokens = jnp.asarray(torch.randint(64, (4, 33)).numpy())
        params, opt_state, loss = traced_step(params, opt_state, tokens)
        print(f"step {step}: loss {loss:.3f}")


if __name__ == "__main__":
    main()
