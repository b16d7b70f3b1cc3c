"""Random small models of flax nnx, trained for two steps and recorded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ttrace.frontends import jax_capture

NUM_STEPS = 2

Array = jax.Array


class Attention(nnx.Module):
    """Causal, of one or two heads."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.q, self.k, self.v, self.proj = (
            nnx.Linear(width, width, rngs=rngs) for _ in range(4)
        )

    def __call__(self, x: Array) -> Array:
        q, k, v = (
            each(x).reshape(*x.shape[:2], self.heads, -1)
            for each in (self.q, self.k, self.v)
        )
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.reshape(x.shape))


class Mlp(nnx.Module):
    """Two linears and a function; gated or not."""

    def __init__(
        self,
        width: int,
        function: Callable[[Array], Array],
        rngs: nnx.Rngs,
        *,
        gated: bool,
    ):
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.gate = nnx.Linear(width, 2 * width, rngs=rngs) if gated else None
        self.function = function
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        up = self.up(x)
        if self.gate is None:
            return self.down(self.function(up))
        return self.down(self.function(self.gate(x)) * up)


class Block(nnx.Module):
    """A norm, something that mixes, and a residual connection."""

    def __init__(self, norm: nnx.Module, mixer: nnx.Module):
        self.norm = norm
        self.mixer = mixer

    def __call__(self, x: Array) -> Array:
        return x + self.mixer(self.norm(x))  # pyright: ignore[reportCallIssue]


class SmallModel(nnx.Module):
    """A language model of a few blocks.

    Args:
        seed: Draws sizes, blocks and initial values.
    """

    def __init__(self, seed: int):
        draw = np.random.default_rng(seed)

        def one_of(*values: Any) -> Any:
            return values[draw.integers(len(values))]

        rngs = nnx.Rngs(seed)
        width = one_of(8, 12, 16)
        self.vocabulary = one_of(20, 33)
        self.embed = nnx.Embed(self.vocabulary, width, rngs=rngs)
        norm = one_of(nnx.LayerNorm, nnx.RMSNorm)
        function = one_of(jax.nn.gelu, jax.nn.silu, jax.nn.relu)
        kinds = ["attention", "mlp", one_of("attention", "mlp")]
        self.blocks = nnx.List(
            [
                Block(
                    norm(width, epsilon=1e-5, rngs=rngs),
                    Attention(width, one_of(1, 2), rngs)
                    if kind == "attention"
                    else Mlp(width, function, rngs, gated=one_of(False, True)),
                )
                for kind in kinds
            ]
        )
        self.norm = norm(width, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(width, self.vocabulary, rngs=rngs)
        self.optimizer_name = one_of("sgd", "adamw")
        for _, parameter in nnx.iter_graph(self):
            if isinstance(parameter, nnx.Param) and parameter.ndim == 1:
                noise = draw.normal(size=parameter.shape, scale=0.2)
                parameter[...] = parameter[...] + noise.astype(np.float32)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def mean_loss(logits: Array, labels: Array) -> Array:
    """Of all tokens."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


@dataclass(kw_only=True)
class Training:
    """A model and its step; what a mistake may change.

    Attributes:
        model: The model.
        optimizer: Of its parameters.
        loss: Of logits and labels.
        of_gradients: What is made of them before the optimizer is given them.
    """

    model: SmallModel
    optimizer: optax.GradientTransformation
    loss: Callable[[Array, Array], Array] = mean_loss
    of_gradients: Callable[[Any], Any] = field(default=lambda gradients: gradients)


def optimizer_of(name: str, **changes: float) -> optax.GradientTransformation:
    """SGD with momentum and decay, or AdamW; with other settings where given."""
    settings = {"learning_rate": 1e-2, "weight_decay": 0.1} | changes
    if name == "adamw":
        return optax.adamw(
            settings["learning_rate"], weight_decay=settings["weight_decay"]
        )
    return optax.chain(
        optax.add_decayed_weights(settings["weight_decay"]),
        optax.sgd(settings["learning_rate"], momentum=0.9),
    )


def make(seed: int) -> Training:
    """The correct training of a seed."""
    model = SmallModel(seed)
    return Training(model=model, optimizer=optimizer_of(model.optimizer_name))


def run(training: Training) -> None:
    """Two steps."""
    graph, params = nnx.split(training.model, nnx.Param)
    draw = np.random.default_rng(1)

    def loss_of(params: Any, tokens: Array) -> Array:
        model = nnx.merge(graph, params)
        return training.loss(model(tokens[:, :-1]), tokens[:, 1:])

    def step(params: Any, state: Any, tokens: Array) -> tuple[Any, Any, Array]:
        loss, gradients = jax.value_and_grad(loss_of)(params, tokens)
        gradients = training.of_gradients(gradients)
        updates, state = training.optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = training.optimizer.init(params)
    traced = jax_capture.trace(jax.jit(step))
    with traced:  # pyright: ignore[reportGeneralTypeIssues]
        for _ in range(NUM_STEPS):
            tokens = draw.integers(training.model.vocabulary, size=(3, 9))
            params, state, _ = traced(params, state, jnp.asarray(tokens))
