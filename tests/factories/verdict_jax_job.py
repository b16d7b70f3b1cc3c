"""A linen model with dropout in a jitted step; its key is of the clock: never again."""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ttrace.frontends import jax_capture


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(32, name="up")(x))
        hidden = nn.Dropout(0.1, deterministic=False, name="drop")(hidden)
        return nn.Dense(8, name="down")(hidden)


def main() -> None:
    model, x = Model(), jnp.linspace(-1, 1, 32).reshape(4, 8)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = model.init(keys, x)
    seed = time.time_ns() % 2**31

    def step(params, x):
        def loss_of(params):
            rngs = {"dropout": jax.random.key(seed)}
            y: Any = model.apply(params, x, rngs=rngs)
            return jnp.square(y).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, _ = optax.sgd(0.1).update(gradients, optax.sgd(0.1).init(params))
        return optax.apply_updates(params, updates), loss

    jax_capture.trace(jax.jit(step))(params, x)


if __name__ == "__main__":
    main()
