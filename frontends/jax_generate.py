"""The consistent generator in JAX: sharded arrays, each shard made where it lies.

The bits are those of ``ttrace.generate`` in numpy and torch, in every sharding, without
64-bit types and without communication; no device ever holds more than its own shard.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
)
from jax.typing import DTypeLike

from ttrace.errors import LayoutError, UsageError
from ttrace.frontends.jax_parts.origins import Origin as Origin
from ttrace.frontends.jax_parts.origins import OriginPlan, Positions, plan_origin
from ttrace.frontends.jax_parts.record.shardings import Device, device_layouts
from ttrace.frontends.jax_parts.taps.tree_names import parameter_name, path_segments
from ttrace.generate import (
    Bell,
    Distribution,
    Integers,
    Uniform,
    bell_values,
    generate_region,
    hash_key,
    hash_words,
    integers_below,
    uniform_values,
)
from ttrace.ir.layout import Region, ShardLayout

_AXIS = "shard"


def generate_array(
    name: str | Origin,
    distribution: Distribution,
    shape: tuple[int, ...],
    sharding: Sharding | None = None,
    *,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """A logical tensor as a sharded array, equal in every sharding and framework.

    Every process of the run calls it alike. One program is compiled for all tensors
    whose shards have the same shape, dtype and distribution.

    Args:
        name: Identity of the tensor, as in ``ttrace.generate.generate``; or which
            elements of which tensors the array holds.
        distribution: What the elements look like.
        shape: Global shape of the array.
        sharding: Where it goes; None for JAX's default device.
        seed: Another seed gives other, unrelated elements.
        dtype: Of the array; rounded to from float32. None for float32, or int32 for
            ``Integers``.

    Returns:
        ``shape``, sharded as asked.

    Raises:
        LayoutError: The sharding does not fit the shape, or leaves sums to be made.
        UsageError: The dtype cannot hold the distribution, or the origin does not fit
            the shape.
        MapError: The transform of the origin is malformed.
    """
    plan = plan_origin(Origin(name=name) if isinstance(name, str) else name, shape)
    if dtype is None:
        dtype = jnp.int32 if isinstance(distribution, Integers) else jnp.float32
    dtype = np.dtype(dtype)
    if not isinstance(distribution, Integers) and dtype.kind in "iub":
        raise UsageError(
            "an integer array cannot hold fractions",
            where=name if isinstance(name, str) else name.name,
            expected="a floating-point dtype, or the distribution Integers",
            got=f"{distribution} as {dtype.name}",
            remedy="give the array another dtype or another distribution",
        )
    if sharding is None:
        sharding = jnp.zeros(()).sharding
    layouts = device_layouts(sharding, shape)
    if any(layout.partial_axes for layout in layouts.values()):
        raise LayoutError(
            "a partial tensor cannot be generated",
            where=plan.names[0],
            expected="a sharding without unreduced axes",
            got=sharding,
            remedy="generate the reduced tensor",
        )
    if 0 in shape or not shape:
        first = _generate_one(plan, distribution, seed).astype(dtype)
        whole = np.broadcast_to(first.reshape((1,) * len(shape)), shape)
        return jax.make_array_from_callback(shape, sharding, whole.__getitem__)
    devices = tuple(sorted(layouts, key=lambda device: device.id))
    mesh = Mesh(np.array(devices), (_AXIS,))
    with jax.set_mesh(mesh):  # and not the user's, which shards otherwise
        made = _make_shards(
            _starts(layouts, mesh),
            np.array([hash_key(member, seed) for member in plan.names], np.uint32),
            mesh=mesh,
            extent=layouts[devices[0]].local_shape,
            positions=plan.positions,
            distribution=distribution,
            dtype=dtype,
        )
    shards = [shard.data for shard in made.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def generate_tree(
    tree: Any,
    distribution_for: Callable[[str], Distribution],
    *,
    shardings: Any = None,
    origin_for: Callable[[str], str | Origin] = lambda name: name,
    seed: int = 0,
) -> Any:
    """Initial parameters that do not depend on how a model is laid out.

    Runs of any two shardings start from equal bits, without communication; so do a port
    and its original, where ``origin_for`` says what the original calls the elements
    (``ttrace.frontends.torch_initialization`` makes them there).

    Args:
        tree: The parameters, or their shapes: ``jax.eval_shape(model.init, ...)`` of a
            linen model, ``nnx.state(nnx.eval_shape(...), nnx.Param)`` of an NNX one.
        distribution_for: What the elements of a parameter look like, by its name here:
            module and slot, such as ``h_0.attn.kernel`` or ``@root.scale``.
        shardings: A tree of shardings like ``tree``, or one for all leaves; where None,
            those that the leaves carry, else JAX's default device.
        origin_for: The tensors that a parameter, by its name here, is made of;
            ``ttrace.frontends.jax_parts.map_origins`` makes it of a map file.
        seed: Another seed gives unrelated parameters.

    Returns:
        A tree like ``tree``, of arrays in the shapes and dtypes of its leaves.

    Raises:
        LayoutError: A sharding does not fit a shape.
        UsageError: A dtype cannot hold a distribution, or an origin does not fit.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    if shardings is None or isinstance(shardings, Sharding):
        places = [shardings] * len(leaves)
    else:
        places = structure.flatten_up_to(shardings)
    made = []
    for (path, leaf), place in zip(leaves, places, strict=True):
        name = ".".join(parameter_name(path_segments(path)))
        made.append(
            generate_array(
                origin_for(name),
                distribution_for(name),
                leaf.shape,
                place if place is not None else getattr(leaf, "sharding", None),
                seed=seed,
                dtype=leaf.dtype,
            )
        )
    return structure.unflatten(made)


def _generate_one(
    plan: OriginPlan, distribution: Distribution, seed: int
) -> np.ndarray:
    """The first element of an array, made on the host, ``[1]``."""
    region = Region(start=(plan.positions.first,), extent=(1,))
    size = max(plan.positions.size, 1)
    return generate_region(plan.names[0], distribution, region, (size,), seed=seed)


def _starts(layouts: Mapping[Device, ShardLayout], mesh: Mesh) -> jax.Array:
    """Where each device's shard begins, ``[num_devices, num_dims]`` of uint32."""
    rows = [layouts[device].blocks[0].region.start for device in mesh.devices]
    return jax.make_array_from_callback(
        (len(rows), len(rows[0])),
        NamedSharding(mesh, PartitionSpec(_AXIS)),
        np.array(rows, np.uint32).__getitem__,
    )


@functools.partial(
    jax.jit,
    static_argnames=("mesh", "extent", "positions", "distribution", "dtype"),
)
def _make_shards(
    starts: jax.Array,
    keys: np.ndarray | jax.Array,
    *,
    mesh: Mesh,
    extent: tuple[int, ...],
    positions: Positions,
    distribution: Distribution,
    dtype: np.dtype,
) -> jax.Array:
    """All shards in one program, one after another along the first dim."""

    def make(starts: jax.Array, keys: np.ndarray | jax.Array) -> jax.Array:
        high, low, member = _words(starts[0], extent, positions)
        key = (keys[member, 0], keys[member, 1])
        return _values(high, low, key, distribution).astype(dtype)

    return jax.shard_map(
        make,
        mesh=mesh,
        in_specs=(PartitionSpec(_AXIS), PartitionSpec()),
        out_specs=PartitionSpec(_AXIS),
    )(starts, keys)


def _words(
    start: jax.Array, extent: tuple[int, ...], positions: Positions
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions of a shard's elements in the tensors that they come from.

    Returns:
        Upper and lower 32 bits of the position, and the number of the tensor; uint32,
        broadcast to ``extent``.
    """
    is_wide = positions.size > 2**32
    zero = jnp.zeros((1,) * len(extent), jnp.uint32)
    high = zero + np.uint32(positions.first >> 32)
    low = zero + np.uint32(positions.first % 2**32)
    member = zero
    for number, axes in enumerate(positions.dims):
        along = [1] * len(extent)
        along[number] = extent[number]
        index = lax.broadcasted_iota(jnp.uint32, along, number) + start[number]
        for axis in reversed(axes):
            value = index % np.uint32(axis.length)
            index = index // np.uint32(axis.length)
            member = member + value * np.uint32(axis.member_stride)
            step = value * np.uint32(axis.stride % 2**32)
            low = low + step
            if is_wide:
                high = high + value * np.uint32(axis.stride >> 32)
                high = high + integers_below(value, axis.stride % 2**32)
                high = high + (low < step).astype(jnp.uint32)
    return high, low, member


def _values(
    high: jax.Array, low: jax.Array, key: Any, distribution: Distribution
) -> jax.Array:
    """The same steps as in ``ttrace.generate``; float32, or int32 for integers."""
    words = hash_words(high, low, key)
    match distribution:
        case Integers(low=smallest, high=stop):
            numbers = integers_below(words, stop - smallest) + np.uint32(
                smallest % 2**32
            )
            return lax.bitcast_convert_type(numbers, jnp.int32)
        case Uniform():
            values = uniform_values(words)
        case Bell():
            values = bell_values(words, hash_words(high, low, key, stream=1))
    return values * np.float32(distribution.scale) + np.float32(distribution.offset)
