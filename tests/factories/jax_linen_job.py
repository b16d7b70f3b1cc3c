"""A small training job in linen, on a mesh of any size, for the tests of its trace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def mesh_of(dp: int, tp: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (dp, tp),
        ("dp", "tp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: dp * tp],
    )


class Mlp(nn.Module):
    """Two layers, one of them called twice."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(8, name="layer")
        return nn.Dense(4, name="head")(layer(nn.gelu(layer(x))))


class LinenJob:
    """A train state on a mesh, and its jitted step."""

    def __init__(self, dp: int = 1, tp: int = 1, dtype=jnp.float32):
        self.mesh = mesh_of(dp, tp)
        model = Mlp()
        x = jax.random.normal(jax.random.key(1), (4, 8), dtype)
        params = model.init(jax.random.key(0), x)["params"]
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        self.x = self.put(x, "dp")
        self.state = TrainState.create(
            apply_fn=model.apply,
            params=jax.tree.map(lambda leaf: self.put(leaf, *_spec(leaf)), params),
            tx=optax.adamw(1e-2),
        )

        def step(state, x, *, power):
            def loss(params):
                return (state.apply_fn({"params": params}, x) ** power).mean()

            value, grads = jax.value_and_grad(loss)(state.params)
            return state.apply_gradients(grads=grads), value

        self.step = jax.jit(step, donate_argnums=0, static_argnames="power")

    def put(self, array: Any, *spec: Any) -> jax.Array:
        return jax.device_put(array, NamedSharding(self.mesh, PartitionSpec(*spec)))

    def run(self, step: Callable[..., Any], num_steps: int = 2) -> "LinenRun":
        state, losses = jax.tree.map(jnp.copy, self.state), []
        before = state
        for _ in range(num_steps):
            before = state
            state, loss = step(before, self.x, power=2)
            losses.append(loss)
        return LinenRun(
            results=[state.params, state.opt_state, losses],
            donated=[leaf.is_deleted() for leaf in jax.tree.leaves(before)],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinenRun:
    """What a run ends with, and which leaves of its last state but one were donated."""

    results: list[Any]
    donated: list[bool]


def _spec(leaf: jax.Array) -> tuple[Any, ...]:
    return ("tp",) if leaf.shape == (8, 8) else ()
