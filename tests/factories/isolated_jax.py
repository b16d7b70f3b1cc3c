"""Small models in linen, NNX, ``shard_map`` and torch, with mistakes in certain places.

All take the same ``[8, 4, 8]`` batch and begin with the same parameters. Modules of
linen and torch have the same names.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from torch.nn import functional as F

from ttrace.frontends import jax_capture, torch_capture
from ttrace.frontends.jax_capture import TracedStep

WIDTH, HIDDEN, NUM_BLOCKS = 8, 16, 2

Train = Callable[[], None]

_HEAD = """
[[tensor]]
reference = "head/{kind}/weight"
candidate = "head/{kind}/kernel"
transform = "i o -> o i"
"""

MAP_OF_LINEN = (
    _HEAD
    + """
[[tensor]]
reference = "block{n}.up/{kind}/weight"
candidate = "block{n}.up/{kind}/kernel"
transform = "i o -> o i"

[[tensor]]
reference = "block{n}.down/{kind}/weight"
candidate = "block{n}.down/{kind}/kernel"
transform = "i o -> o i"

[[tensor]]
reference = "block{n}.norm/{kind}/weight"
candidate = "block{n}.norm/{kind}/scale"
"""
)
"""From the torch model to that of linen."""

MAP_OF_SCANNED = (
    _HEAD
    + """
[[tensor]]
reference = "block{n}.up/{kind}/weight"
candidate = "blocks.up/{kind}/kernel"
transform = "n i o -> o i"

[[tensor]]
reference = "block{n}.down/{kind}/weight"
candidate = "blocks.down/{kind}/kernel"
transform = "n i o -> o i"

[[tensor]]
reference = "block{n}.norm/{kind}/weight"
candidate = "blocks.norm/{kind}/scale"
transform = "n d -> d"

[[tensor]]
reference = "block{n}/{kind}/0"
candidate = "blocks/{kind}/0/call{n}"

[[tensor]]
reference = "block{n}.{part}/{kind}/0"
candidate = "blocks.{part}/{kind}/0/call{n}"
"""
)
"""From the torch model to the one that scans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bugs:
    """What is wrong; nothing where nothing is said.

    Attributes:
        forward: Linear layers whose results are a bit off.
        backward: Those whose inputs get gradients that are.
        between: Blocks whose own code is, between two of their modules.
        loss: The loss is.
    """

    forward: tuple[str, ...] = ()
    backward: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    loss: bool = False


RIGHT = Bugs()


def batch() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(8, 4, WIDTH)).astype(np.float32)


def kernel(name: str, num_in: int, num_out: int) -> np.ndarray:
    """The ``[in, out]`` matrix of a layer."""
    random = np.random.default_rng(list(name.encode()))
    return (random.normal(size=(num_in, num_out)) / num_in**0.5).astype(np.float32)


@jax.custom_vjp
def _wrong_back(x: jax.Array) -> jax.Array:
    return x


_wrong_back.defvjp(lambda x: (x, None), lambda _, ct: (ct * 1.01,))


def _linear(name: str, bugs: Bugs, x: jax.Array, matrix: jax.Array) -> jax.Array:
    x = _wrong_back(x) if name in bugs.backward else x
    return x @ matrix * (1.01 if name in bugs.forward else 1.0)


class Linear(nn.Module):
    label: str
    features: int
    bugs: Bugs = RIGHT

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1], self.features
        own = self.param("kernel", lambda _: jnp.asarray(kernel(self.label, *shape)))
        return _linear(self.label, self.bugs, x, own)


class Block(nn.Module):
    label: str
    bugs: Bugs = RIGHT

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(use_bias=False, epsilon=1e-5, name="norm")(x)
        y = jnp.tanh(Linear(f"{self.label}.up", HIDDEN, self.bugs, name="up")(y))
        if self.label in self.bugs.between:
            y = y * 1.01
        return x + Linear(f"{self.label}.down", WIDTH, self.bugs, name="down")(y)


class Linen(nn.Module):
    bugs: Bugs = RIGHT
    is_recomputed: bool = False

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block) if self.is_recomputed else Block
        for number in range(NUM_BLOCKS):
            x = block(f"block{number}", self.bugs, name=f"block{number}")(x)
        return Linear("head", WIDTH, self.bugs, name="head")(x)


def linen(
    bugs: Bugs = RIGHT,
    *,
    dp: int = 1,
    tp: int = 1,
    is_recomputed: bool = False,
) -> Train:
    """Trains the linen model, its batch over dp and its hidden dim over tp."""

    def train() -> None:
        mesh = _mesh(dp, tp)

        def put(array: Any, *spec: Any) -> jax.Array:
            return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

        model = Linen(bugs, is_recomputed)
        params = model.init(jax.random.key(0), batch())["params"]
        for number in range(NUM_BLOCKS):
            block = params[f"block{number}"]
            block["up"]["kernel"] = put(block["up"]["kernel"], None, "tp")
            block["down"]["kernel"] = put(block["down"]["kernel"], "tp")
        optimizer = optax.sgd(0.1)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, x):
            def loss(params):
                y = model.apply({"params": params}, x)
                assert isinstance(y, jax.Array)
                return _loss(y, bugs)

            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, value

        with _traced(step) as traced:
            traced(params, optimizer.init(params), put(batch(), "dp"))

    return train


class NnxLinear(nnx.Module):
    def __init__(self, label: str, kernel: np.ndarray, bugs: Bugs):
        self.kernel = nnx.Param(jnp.asarray(kernel))
        self.label, self.bugs = label, bugs

    def __call__(self, x):
        return _linear(self.label, self.bugs, x, self.kernel[...])


class NnxNorm(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.ones((NUM_BLOCKS, WIDTH)))

    def __call__(self, x):
        return jax.nn.standardize(x, epsilon=1e-5) * self.scale[...]


class NnxBlocks(nnx.Module):
    """Blocks whose parameters are stacked."""

    def __init__(self, bugs: Bugs):
        def stacked(name: str, *shape: int) -> NnxLinear:
            labels = [f"block{number}.{name}" for number in range(NUM_BLOCKS)]
            kernels = [kernel(label, *shape) for label in labels]
            return NnxLinear(f"blocks.{name}", np.stack(kernels), bugs)

        self.norm = NnxNorm()
        self.up = stacked("up", WIDTH, HIDDEN)
        self.down = stacked("down", HIDDEN, WIDTH)
        self.bugs = bugs

    def __call__(self, x):
        y = jnp.tanh(self.up(self.norm(x)))
        if "blocks" in self.bugs.between:
            y = y * 1.01
        return x + self.down(y)


class Nnx(nnx.Module):
    def __init__(self, bugs: Bugs):
        self.blocks = NnxBlocks(bugs)
        self.head = NnxLinear("head", kernel("head", WIDTH, WIDTH), bugs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def forward(block, x):
            return block(x)

        return self.head(forward(self.blocks, x))


def scanned(bugs: Bugs = RIGHT) -> Train:
    """Trains an NNX model that scans over its blocks, and recomputes each."""

    def train() -> None:
        model = Nnx(bugs)
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x):
            value, gradients = nnx.value_and_grad(lambda m: _loss(m(x), bugs))(model)
            optimizer.update(model, gradients)
            return value

        with _traced(step) as traced:
            traced(model, optimizer, jnp.asarray(batch()))

    return train


class Mapped(nn.Module):
    """Two layers, the first cut by its columns and the second by its rows."""

    bugs: Bugs = RIGHT
    tp: int = 1

    @nn.compact
    def __call__(self, x):
        y = jnp.tanh(Columns(HIDDEN // self.tp, name="up")(x))
        y = y * (1.01 if "@root" in self.bugs.between else 1.0)
        return Rows(self.bugs, self.tp > 1, name="down")(y)


class Columns(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1], self.features
        return x @ self.param("kernel", nn.initializers.lecun_normal(), shape)


class Rows(nn.Module):
    bugs: Bugs
    is_reduced: bool

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1], WIDTH
        y = x @ self.param("kernel", nn.initializers.lecun_normal(), shape)
        y = jax.lax.psum(y, "tp") if self.is_reduced else y
        return y * (1.01 if "down" in self.bugs.forward else 1.0)


def shard_mapped(bugs: Bugs = RIGHT, *, dp: int = 1, tp: int = 1) -> Train:
    """Trains a model within a ``shard_map``; on one device without."""

    def train() -> None:
        params = {
            "up": {"kernel": jnp.asarray(kernel("up", WIDTH, HIDDEN))},
            "down": {"kernel": jnp.asarray(kernel("down", HIDDEN, WIDTH))},
        }
        model = Mapped(bugs, tp)

        def loss(params, x):
            y = model.apply({"params": params}, x)
            assert isinstance(y, jax.Array)
            value = _loss(y, bugs)
            return jax.lax.pmean(value, "dp") if dp > 1 else value

        if dp * tp > 1:
            specs = {
                "up": {"kernel": PartitionSpec(None, "tp")},
                "down": {"kernel": PartitionSpec("tp")},
            }
            loss = jax.shard_map(
                loss,
                mesh=_mesh(dp, tp),
                in_specs=(specs, PartitionSpec("dp")),
                out_specs=PartitionSpec(),
            )

        @jax.jit
        def step(params, x):
            value, gradients = jax.value_and_grad(loss)(params, x)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

        sharded = "b[dp] s h[tp]"
        dims = {"up/*output/*": sharded, "down/*input/*": sharded, "up": "b[dp] s h"}
        with _traced(step, dims=dims if dp * tp > 1 else None) as traced:
            traced(params, batch())

    return train


class TorchLinear(torch.nn.Linear):
    def __init__(self, label: str, num_in: int, num_out: int):
        super().__init__(num_in, num_out, bias=False)
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(kernel(label, num_in, num_out).T.copy()))


class TorchBlock(torch.nn.Module):
    def __init__(self, label: str):
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH, bias=False)
        self.up = TorchLinear(f"{label}.up", WIDTH, HIDDEN)
        self.down = TorchLinear(f"{label}.down", HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for number in range(NUM_BLOCKS):
            self.add_module(f"block{number}", TorchBlock(f"block{number}"))
        self.head = TorchLinear("head", WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.children():
            x = block(x)
        return x


def torch_model() -> None:
    """Trains the model in torch, without a mistake."""
    model = Torch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        loss = F.mse_loss(model(torch.from_numpy(batch())), torch.ones(8, 4, WIDTH))
        trace.loss(loss)
        loss.backward()
        optimizer.step()
        trace.step()


def _loss(y: jax.Array, bugs: Bugs) -> jax.Array:
    return jnp.mean((y - 1) ** 2) * (1.01 if bugs.loss else 1.0)


def _mesh(dp: int, tp: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (dp, tp),
        ("dp", "tp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: dp * tp],
    )


def _traced(step: Callable[..., Any], **options: Any) -> TracedStep:
    traced = jax_capture.trace(step, **options)
    assert isinstance(traced, TracedStep)
    return traced
