"""Rounding noise inside a program: one unit in the last place, as on the torch side.

The sign of a step is a function of the tensor's identity, the noise seed and the
element's index in the logical tensor, so a recomputed forward, replicas and another
sharding get the same noise. Iterations of a loop are told apart by a salt.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.sites import SpecEntry, TapSite
from ttrace.frontends.jax_parts.taps.tap import Role
from ttrace.generate import hash_key, hash_words, integers_below
from ttrace.ir.dtypes import units_per_step
from ttrace.ir.kinds import Kind

_BITS = {
    np.dtype(np.float64): jnp.int64,
    np.dtype(np.float32): jnp.int32,
    np.dtype(np.float16): jnp.int16,
    np.dtype(jnp.bfloat16): jnp.int16,
}
"""Dtypes that get noise, and the integers that step their bits."""

_SALT = hash_key("noise/iteration")
_WORD = np.uint32(0xFFFFFFFF)

Key = tuple[np.uint32, np.uint32]


def applies(site: TapSite, role: Role, x: Any) -> bool:
    """Whether what passes a tap of a site with noise gets it: values do, and the
    cotangents of outputs."""
    if x.dtype not in _BITS:
        return False
    return role is Role.VALUE or site.grad is Kind.GRAD_OUTPUT


def key(site: TapSite, role: Role, rank: int, noise_seed: int) -> Key:
    """What sets the noise of one tap apart.

    Args:
        site: What is tapped.
        role: Whether the value or its cotangent.
        rank: Tells the executions of the site in Python apart.
        noise_seed: Another one gives other signs.
    """
    kind = site.kind if role is Role.VALUE else site.grad
    assert kind is not None
    return hash_key(f"noise/{site.tensor_id(kind)}/{rank}", noise_seed)


def folded(salt: Any, number: Any) -> Any:
    """The salt within an iteration.

    Args:
        salt: uint32 scalar.
        number: Of the iteration, an integer scalar.
    """
    high = jnp.reshape(jnp.asarray(number).astype(jnp.uint32), (1,))
    return hash_words(high, jnp.reshape(salt, (1,)), _SALT)[0]


def stepped(
    x: Any,
    key: Key,
    salt: Any,
    *,
    spec: Sequence[SpecEntry] | None = None,
    batch_dims: Sequence[int] = (),
    noise_dtype: str | None = None,
) -> Any:
    """A value, every element moved to a neighbouring number of a dtype.

    Zeros stay, and so does what is or would become infinite, zero or not a number; and
    masks: three and more elements with at most two different values.

    Args:
        x: Of a dtype that gets noise.
        key: From ``key``.
        salt: uint32 scalar.
        spec: Inside ``shard_map``, how the value tiles the logical one, with an entry
            for each dim of the logical value or fewer; where None, devices that may
            differ get different noise.
        batch_dims: Where the first dims of the logical value lie in ``x``.
        noise_dtype: That dtype, where it is coarser than the value's own; else None.

    Returns:
        Like ``x``.
    """
    if x.size == 0:
        return x
    front = range(len(batch_dims))
    logical = jnp.moveaxis(x, batch_dims, front) if batch_dims else x
    if spec is None:
        for axis in private_jax.varying_axes(jax.typeof(x)):
            salt = folded(salt, jax.lax.axis_index(axis))
    first, second = key
    high, low = _index_words(logical.shape, spec or ())
    words = hash_words(high, low, (first ^ salt, second))
    bits = _BITS[np.dtype(x.dtype)]
    directions = (words >> np.uint32(30) & np.uint32(2)).astype(bits) - 1
    if batch_dims:
        directions = jnp.moveaxis(directions, front, batch_dims)
    step = units_per_step(np.dtype(x.dtype).name, noise_dtype)
    integers = jax.lax.bitcast_convert_type(x, bits) + directions * step
    moved = jax.lax.bitcast_convert_type(integers, x.dtype)
    may_move = (x != 0) & jnp.isfinite(x) & (moved != 0) & jnp.isfinite(moved)
    if x.size >= 3:
        may_move &= ~jnp.all((x == jnp.min(x)) | (x == jnp.max(x)))
    return jnp.where(may_move, moved, x)


def _index_words(shape: tuple[int, ...], spec: Sequence[SpecEntry]) -> tuple[Any, Any]:
    """C-order indices of the elements in the logical tensor, in two words of 32 bits.

    Args:
        shape: Of the local value.
        spec: How it tiles the logical one.

    Returns:
        Upper and lower 32 bits, uint32, of that shape, or, for a scalar, ``[1]``.
    """
    entries = [*spec, *(None for _ in shape[len(spec) :])]
    axes = [(e,) if isinstance(e, str) else e or () for e in entries]
    sizes = [math.prod(map(jax.lax.axis_size, names)) for names in axes]
    lengths = [extent * size for extent, size in zip(shape, sizes, strict=True)]
    high = low = jnp.zeros(shape, dtype=jnp.uint32)
    for dim, extent in enumerate(shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, dim)
        if axes[dim]:
            tile = jax.lax.axis_index(axes[dim]).astype(jnp.uint32)
            along = along + tile * np.uint32(extent)
        stride = math.prod(lengths[dim + 1 :])
        part = along * np.uint32(stride & 0xFFFFFFFF)
        if math.prod(lengths) > 2**32:
            over = integers_below(along, stride & 0xFFFFFFFF) + along * np.uint32(
                stride >> 32
            )
            high = high + over + (low > _WORD - part).astype(jnp.uint32)
        low = low + part
    return high, low
