"""Stacked layers of equinox in a scan, against the same layers one by one."""

import itertools
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np

from tests.frontends.jax.test_capture import recorded as recorded
from tests.frontends.jax.test_capture import traced, value_of
from ttrace.store.reader import open_trace

KEYS = jax.random.split(jax.random.key(0), 2)
X = jax.random.normal(jax.random.key(1), (4, 3))


class Layer(equinox.Module):
    """A layer that is given a condition, too: the same one in every layer."""

    linear: equinox.nn.Linear
    shift: equinox.nn.Linear

    def __init__(self, key: Any):
        self.linear = equinox.nn.Linear(3, 3, key=key)
        self.shift = equinox.nn.Linear(2, 3, key=key)

    def __call__(self, x, condition):
        return x + jnp.tanh(self.linear(x) + self.shift(condition))


class Model(equinox.Module):
    """Its layers, in a list or stacked."""

    embed: equinox.nn.Linear
    layers: Any
    is_stacked: bool = equinox.field(static=True)

    def __init__(self, *, is_stacked: bool):
        self.embed = equinox.nn.Linear(3, 2, key=KEYS[0])
        stacked = equinox.filter_vmap(Layer)(KEYS)
        self.layers = stacked if is_stacked else list(map(Layer, KEYS))
        self.is_stacked = is_stacked

    def __call__(self, x):
        condition = jnp.tanh(self.embed(x))
        if not self.is_stacked:
            for layer in self.layers:
                x = layer(x, condition)
            return x
        arrays, static = equinox.partition(self.layers, equinox.is_array)

        def layer(x, arrays):
            return equinox.combine(arrays, static)(x, condition), None

        return jax.lax.scan(layer, x, arrays)[0]


@equinox.filter_jit
def step(model, x):
    def loss(model):
        return jnp.square(jax.vmap(model)(x)).mean()

    return equinox.filter_value_and_grad(loss)(model)


NAMES = (
    "layers/output/0",
    "layers/grad_output/0",
    "layers/grad_input/1",
    "layers.shift/grad_input/0",
    "layers.linear/output/0",
)


def test_each_iteration_is_a_layer_and_what_all_are_given_is_recorded_once(recorded):
    def of(name: str, *, is_stacked: bool) -> Any:
        request = recorded(name)
        with traced(step) as run:
            run(Model(is_stacked=is_stacked), X)
        return open_trace(request.out)

    one_by_one, stacked = of("one", is_stacked=False), of("stacked", is_stacked=True)
    for name, number in itertools.product(NAMES, (0, 1)):
        module, rest = name.split("/", 1)
        apart = module.replace("layers", f"layers.{number}")
        call = f"/call{number}" if number else ""
        np.testing.assert_allclose(
            value_of(stacked, f"step0/mb0/{name}{call}"),
            value_of(one_by_one, f"step0/mb0/{apart}/{rest}"),
            rtol=1e-5,
            atol=1e-6,
        )
    ids = [str(id_) for id_ in stacked.info.tensors]
    assert [id_ for id_ in ids if id_.startswith("step0/mb0/layers.shift/input/")] == [
        "step0/mb0/layers.shift/input/0"
    ]
    assert not any(item.came_twice for item in stacked.info.skipped.values())
