"""What the modules of a port know of the device mesh, and the collectives by hand."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ttrace.examples.jax_port.layout import Layout, MeshShape

DATA = "dp"
"""Axis that the batch is cut over."""

CHECK_VMA = True
"""``shard_map`` checks, and differentiates by, which axes a value varies over."""

Constraint = str | None
"""``"batch"``, ``"model"`` or None for a dim that no axis cuts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """The mesh as modules see it; hashable, so that a flax module can carry it.

    Attributes:
        mesh: The devices; None on one device.
        batch: Axes that cut the samples.
        model: Axis that cuts heads, MLP and vocabulary, if one does.
        is_manual: The modules run in ``shard_map`` and hold local parameters.
    """

    mesh: Mesh | None = None
    batch: tuple[str, ...] = ()
    model: str | None = None
    is_manual: bool = False

    def constrain(self, x: jax.Array, *dims: Constraint) -> jax.Array:
        """Tells the compiler how an activation lies; in ``shard_map`` it is local."""
        if self.mesh is None or self.is_manual:
            return x
        axes = {"batch": self.batch, "model": self.model, None: None}
        spec = P(*(axes[dim] for dim in dims))
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def local(self, count: int) -> int:
        """How many of so many heads or features a module has parameters for."""
        if not self.is_manual:
            return count
        assert self.mesh is not None and self.model is not None
        return count // self.mesh.shape[self.model]

    @property
    def row_dot_general(self) -> Callable[..., jax.Array]:
        """Product of a linear whose inputs are cut over the axis ``model``."""
        if not self.is_manual:
            return jax.lax.dot_general
        assert self.model is not None
        return functools.partial(_reduced_dot_general, self.model)

    def first_sample(self, num_local: int) -> jax.Array | int:
        """Number of the first of ``num_local`` samples in the batch."""
        return jax.lax.axis_index(DATA) * num_local if self.is_manual else 0


def make_parallel(layout: Layout, shape: MeshShape) -> Parallel:
    """The mesh of a layout over the first devices."""
    model = "fsdp" if layout is Layout.FSDP else "tp"
    mesh = jax.make_mesh(
        (shape.data, shape.model),
        (DATA, model),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[: shape.size],
    )
    if layout is Layout.FSDP:
        return Parallel(mesh=mesh, batch=(DATA, model))
    is_manual = layout is Layout.SHARD_MAP
    return Parallel(mesh=mesh, batch=(DATA,), model=model, is_manual=is_manual)


def reduce_partials(x: jax.Array, axis: str) -> jax.Array:
    """Sums the products of the devices that each had a part of the features."""
    return jax.lax.psum(x, axis)


def reduce_count(num_tokens: jax.Array) -> jax.Array:
    """Counts the tokens of all devices: what losses are divided by."""
    return jax.lax.psum(num_tokens, DATA)


def reduce_loss(loss: jax.Array) -> jax.Array:
    """Sums the losses of devices with different samples."""
    return jax.lax.psum(loss, DATA)


def vary_over_data(params: Any) -> Any:
    """Gives each part of the batch parameters, and so gradients, of its own."""
    return jax.tree.map(lambda x: jax.lax.pcast(x, DATA, to="varying"), params)


def reduce_gradients(grads: Any) -> Any:
    """Sums the gradients of devices with different samples."""
    return jax.tree.map(lambda x: jax.lax.psum(x, DATA), grads)


def batch_specs(batch: Any) -> Any:
    """How the arrays of a batch enter ``shard_map``: some samples each."""
    return jax.tree.map(lambda _: P(DATA), batch)


def _reduced_dot_general(axis: str, *args: Any, **kwargs: Any) -> jax.Array:
    # Within the product, so that a linear adds its bias after the sum.
    return reduce_partials(jax.lax.dot_general(*args, **kwargs), axis)
