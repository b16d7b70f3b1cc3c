"""What two arrays of jax differ by, as scalars: traceable, under any sharding.

Nothing here is reshaped, gathered or indexed: every statistic is a reduction over all
dims, so that of sharded arrays each device reduces what it holds, and only scalars
travel.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

Array = Any
"""A jax array or a tracer of one."""

_BLOCK_ELEMENTS = 4096

_LARGEST_EXPONENT = {"float32": 100, "float64": 1000}
"""Scales are kept within these powers of two, so that they and 1 over them are
normal numbers."""


def arithmetic_of(dtypes: tuple[np.dtype, np.dtype], *, has_float64: bool) -> np.dtype:
    """Float64 where there is such a thing, and else for float64 only."""
    is_wide = np.dtype(np.float64) in dtypes
    return np.dtype(np.float64 if has_float64 or is_wide else np.float32)


def difference_statistics(
    reference: Array, candidate: Array, arithmetic: np.dtype
) -> dict[str, Array]:
    """Statistics of one pair, each a scalar; under any sharding.

    Args:
        reference: Any shape and sharding; a dtype that ttrace compares.
        candidate: Same shape and sharding.
        arithmetic: In which values are subtracted and summed up.

    Returns:
        ``reference_norm``, ``candidate_norm``, ``difference_norm`` and
        ``max_abs_diff`` in ``arithmetic``, over the elements that are finite on both
        sides; int32 ``num_unequal``, ``num_nonfinite_reference`` and
        ``num_nonfinite_candidate`` (int64 where there is float64).
    """
    values, flags = _elements(reference, candidate, arithmetic)
    if _squares_are_safe(reference, candidate, arithmetic):
        norms = {name: jnp.sqrt(jnp.sum(v * v)) for name, v in values.items()}
    else:
        norms = {name: _scaled_norm(v) for name, v in values.items()}
    zero = jnp.zeros((), arithmetic)
    return _named(norms) | {
        "max_abs_diff": jnp.max(jnp.abs(values["difference"]), initial=zero),
        **{name: jnp.sum(f, dtype=_count(arithmetic)) for name, f in flags.items()},
    }


def shard_statistics(
    reference: Array, candidate: Array, arithmetic: np.dtype, axes: tuple[str, ...]
) -> dict[str, Array]:
    """``difference_statistics`` from within a ``shard_map``, in one reading.

    Args:
        reference: What this device holds.
        candidate: The same of the candidate.
        arithmetic: As there.
        axes: Of the mesh, over which the arrays are sharded.
    """
    values, flags = _elements(reference, candidate, arithmetic)
    columns = {f"max_{name}": jnp.abs(v) for name, v in values.items()}
    columns |= {name: f.astype(_count(arithmetic)) for name, f in flags.items()}
    if _squares_are_safe(reference, candidate, arithmetic):
        del columns["max_reference"], columns["max_candidate"]
        squares = {name: v * v for name, v in values.items()}
        found = _reduce_all(columns | squares)
        norms = {name: jnp.sqrt(found[name]) for name in values}
    else:
        found = _reduce_all(columns)
        exponents = {name: _exponent(found[f"max_{name}"]) for name in values}
        one = jnp.ones((), arithmetic)
        scaled = {n: v * jnp.ldexp(one, -exponents[n]) for n, v in values.items()}
        sums = _reduce_all({name: v * v for name, v in scaled.items()})
        norms = {n: jnp.sqrt(sums[n]) * jnp.ldexp(one, exponents[n]) for n in values}
    counts = {name: found[name] for name in flags}
    largest = found["max_difference"]
    if axes:
        counts = {name: lax.psum(count, axes) for name, count in counts.items()}
        largest = lax.pmax(largest, axes)
        tops = {name: lax.pmax(norm, axes) for name, norm in norms.items()}
        shares = {n: norms[n] / jnp.where(tops[n] > 0, tops[n], 1) for n in norms}
        norms = {
            n: tops[n] * jnp.sqrt(lax.psum(s * s, axes)) for n, s in shares.items()
        }
    return _named(norms) | {"max_abs_diff": largest} | counts


def _elements(
    reference: Array, candidate: Array, arithmetic: np.dtype
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Values, 0 where one side is not finite, and what is counted of each element."""
    r, c = (_Split(side, arithmetic) for side in (reference, candidate))
    r_finite, c_finite = jnp.isfinite(r.high), jnp.isfinite(c.high)
    both = r_finite & c_finite
    zero = jnp.zeros((), arithmetic)
    difference = jnp.where(both, (c.high - r.high) + (c.low - r.low), zero)
    if reference.dtype == candidate.dtype:
        unequal = _unequal(reference, candidate)
    else:
        are_nan = jnp.isnan(r.high) & jnp.isnan(c.high)
        unequal = jnp.where(both, difference != 0, (r.high != c.high) & ~are_nan)
    return {
        "reference": jnp.where(both, r.high + r.low, zero),
        "candidate": jnp.where(both, c.high + c.low, zero),
        "difference": difference,
    }, {
        "num_unequal": unequal,
        "num_nonfinite_reference": ~r_finite,
        "num_nonfinite_candidate": ~c_finite,
    }


def _reduce_all(columns: dict[str, Array]) -> dict[str, Array]:
    """Reduces all dims in one loop: ``max_*`` by the maximum, others by their sum.

    Block by block, and then the blocks: one long sum of equal numbers would gather
    what each addition rounds.
    """
    flat = {name: column.reshape(-1) for name, column in columns.items()}
    size = next(iter(flat.values())).size
    end = size - size % _BLOCK_ELEMENTS
    if not end:
        return _reduce_last(flat)
    whole = {n: c[:end].reshape(-1, _BLOCK_ELEMENTS) for n, c in flat.items()}
    found = _reduce_last(_reduce_last(whole))
    if end == size:
        return found
    rest = _reduce_last({name: column[end:] for name, column in flat.items()})
    return {name: _combine(name)(value, rest[name]) for name, value in found.items()}


def _reduce_last(columns: dict[str, Array]) -> dict[str, Array]:
    combine = [_combine(name) for name in columns]
    operands = tuple(columns.values())
    reduced = lax.reduce(
        operands,
        tuple(np.zeros((), operand.dtype) for operand in operands),
        lambda left, right: tuple(
            f(p, q) for f, p, q in zip(combine, left, right, strict=True)
        ),
        (operands[0].ndim - 1,),
    )
    return dict(zip(columns, reduced, strict=True))


def _combine(name: str) -> Callable[[Array, Array], Array]:
    return lax.max if name.startswith("max_") else lax.add


def _named(norms: dict[str, Array]) -> dict[str, Array]:
    return {f"{name}_norm": norm for name, norm in norms.items()}


def _count(arithmetic: np.dtype) -> np.dtype:
    return np.dtype(np.int64 if arithmetic == np.float64 else np.int32)


class _Split:
    """Values as ``high + low``; ``low`` is 0 but for integers that a float cuts."""

    def __init__(self, values: Array, arithmetic: np.dtype):
        mantissa_bits = jnp.finfo(arithmetic).nmant
        is_integer = jnp.issubdtype(values.dtype, jnp.integer)
        if is_integer and 8 * values.dtype.itemsize > mantissa_bits:
            half = jnp.asarray(2 ** (4 * values.dtype.itemsize), values.dtype)
            low = lax.rem(values, jnp.broadcast_to(half, values.shape))
            self.high = (values - low).astype(arithmetic)
            self.low = low.astype(arithmetic)
        else:
            self.high = values.astype(arithmetic)
            self.low = jnp.zeros((), arithmetic)


def _squares_are_safe(reference: Array, candidate: Array, arithmetic: np.dtype) -> bool:
    """Whether squares of the dtypes neither overflow nor underflow."""
    return all(
        side.dtype.itemsize < arithmetic.itemsize
        # float32 and bfloat16 have the same exponents
        and not (arithmetic == np.float32 and side.dtype == jnp.bfloat16)
        for side in (reference, candidate)
    )


def _scaled_norm(values: Array) -> Array:
    """Frobenius norm; squares are taken of values scaled by a power of two."""
    one = jnp.ones((), values.dtype)
    zero = jnp.zeros((), values.dtype)
    exponent = _exponent(jnp.max(jnp.abs(values), initial=zero))
    scaled = values * jnp.ldexp(one, -exponent)
    return jnp.sqrt(jnp.sum(scaled * scaled)) * jnp.ldexp(one, exponent)


def _exponent(largest: Array) -> Array:
    """Of the power of two that is about the largest value, within what has a
    reciprocal."""
    limit = _LARGEST_EXPONENT[largest.dtype.name]
    return jnp.clip(jnp.frexp(largest)[1], -limit, limit).astype(np.int32)


def _unequal(reference: Array, candidate: Array) -> Array:
    """Which values of one dtype differ; by the bits, as a device may take denormals
    for 0. 0.0 equals -0.0, and NaN equals NaN at the same place.
    """
    if not jnp.issubdtype(reference.dtype, jnp.floating):
        return reference != candidate
    width = 8 * reference.dtype.itemsize
    bits = [
        lax.bitcast_convert_type(side, np.dtype(f"uint{width}"))
        for side in (reference, candidate)
    ]
    mask = np.array((1 << (width - 1)) - 1, bits[0].dtype)
    are_zero = ((bits[0] | bits[1]) & mask) == 0
    are_nan = jnp.isnan(reference) & jnp.isnan(candidate)
    return (bits[0] != bits[1]) & ~are_zero & ~are_nan


def has_float64(platform: str) -> bool:
    """Whether a platform computes float64 itself, and is not asked to emulate it."""
    return platform != "tpu"


def is_traced(value: object) -> bool:
    """Whether a value is not known yet, inside of a function that jax transforms."""
    return isinstance(value, Tracer)
