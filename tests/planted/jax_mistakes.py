"""Mistakes that are planted in a training of JAX, and what is to be said of each."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.planted.expected import Draw, Expected, expected
from tests.planted.jax_training import (
    Array,
    Attention,
    Mlp,
    Training,
    mean_loss,
    optimizer_of,
)
from ttrace.ir.kinds import Kind

Plant = Callable[[Training, Draw], Expected | None]
"""Makes the mistake; None where the model has nothing that it can be made in."""


def _some(training: Training, draw: Draw, *classes: type) -> tuple[str, Any]:
    """One of the model's modules of these classes; every model has some."""
    return draw(
        [
            (".".join(map(str, path)), module)
            for path, module in nnx.iter_graph(training.model)
            if isinstance(module, classes)
        ]
    )


def _calls(module: Any, change: Callable[[Any, Array], Array]) -> None:
    """The module is of a class of its own, whose call is another one."""

    class Changed(type(module)):
        def __call__(self, x: Array) -> Array:
            return change(super().__call__, x)

    module.__class__ = Changed


def scaled_output(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nnx.Linear, Attention, Mlp)
    _calls(module, lambda call, x: call(x) * 1.25)
    return expected(name, [Kind.OUTPUT])


def dropped_bias(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nnx.Linear)
    _calls(module, lambda call, x: call(x) - module.bias)
    return expected(name, [Kind.OUTPUT], "added_bias")


def other_order(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nnx.Linear)
    _calls(module, lambda call, x: jnp.roll(call(x), 3, axis=-1))
    return expected(name, [Kind.OUTPUT], "rearranged")


def transposed(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, Attention)
    linear = module.proj
    _calls(linear, lambda call, x: x @ linear.kernel[...].T + linear.bias[...])
    return expected(f"{name}.proj", [Kind.OUTPUT], "transposed_weight")


def epsilon(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nnx.LayerNorm, nnx.RMSNorm)
    module.epsilon = draw([1e-3, 1e-4])
    return expected(name, [Kind.OUTPUT], "norm_epsilon")


def other_function(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, Mlp)
    gelu = module.function is jax.nn.gelu
    module.function = (
        (lambda x: jax.nn.gelu(x, approximate=False)) if gelu else (jax.nn.gelu)
    )
    return expected(f"{name}.down", [Kind.INPUT], "activation_variant")


def rounded(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nnx.Linear)

    def change(call: Callable[[Array], Array], x: Array) -> Array:
        return jax.lax.reduce_precision(call(x), exponent_bits=8, mantissa_bits=7)

    _calls(module, change)
    return expected(name, [Kind.OUTPUT], "lower_precision")


def not_finite(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, nnx.Linear)
    _calls(module, lambda call, x: call(x).at[0, 1, 2].set(jnp.nan))
    return expected(name, [Kind.OUTPUT], "first_nonfinite")


def some_tokens(training: Training, draw: Draw) -> Expected | None:
    def change(call: Callable[[Array], Array], tokens: Array) -> Array:
        rows = call(tokens)
        return jnp.where((tokens < 5)[..., None], rows * 0.5, rows)

    _calls(training.model.embed, change)
    return expected("embed", [Kind.OUTPUT], "embedding_rows")


def stopped(training: Training, draw: Draw) -> Expected | None:
    _, module = _some(training, draw, Attention, Mlp)
    _calls(module, lambda call, x: jax.lax.stop_gradient(call(x)))
    return expected("", [], "no_gradient")


def wrong_backward(training: Training, draw: Draw) -> Expected | None:
    name, module = _some(training, draw, Attention, Mlp)

    def change(call: Callable[[Array], Array], x: Array) -> Array:
        y = call(x)
        return 2 * y - jax.lax.stop_gradient(y)

    _calls(module, change)
    return expected(name, [])


def rate(training: Training, draw: Draw) -> Expected | None:
    training.optimizer = optimizer_of(
        training.model.optimizer_name, learning_rate=1.5e-2
    )
    return expected("@root", [Kind.LEARNING_RATE], "scaled_update")


def decay(training: Training, draw: Draw) -> Expected | None:
    training.optimizer = optimizer_of(training.model.optimizer_name, weight_decay=0.0)
    kinds = [Kind.UPDATED_PARAM, Kind.OPTIMIZER_STATE, Kind.MAIN_GRAD]
    return expected("", kinds, "weight_decay", "weight_decay_in_moments")


def scaled_gradients(training: Training, draw: Draw) -> Expected | None:
    training.of_gradients = lambda gradients: jax.tree.map(lambda g: g / 2, gradients)
    return expected("", [Kind.MAIN_GRAD], "scaled", "after_backward")


def scaled_loss(training: Training, draw: Draw) -> Expected | None:
    training.loss = lambda logits, labels: mean_loss(logits, labels) * 0.5
    return expected("@root", [Kind.LOSS], "scaled")


MISTAKES: Mapping[str, Plant] = {
    plant.__name__: plant
    for plant in (
        scaled_output,
        dropped_bias,
        other_order,
        transposed,
        epsilon,
        other_function,
        rounded,
        not_finite,
        some_tokens,
        stopped,
        wrong_backward,
        rate,
        decay,
        scaled_gradients,
        scaled_loss,
    )
}
"""By name."""
