"""The jitted kernels of the jax backend: per-tile sums of a chunk of a pair.

Every kernel takes a chunk of a fixed number of elements, so that no shape of a
tensor ever compiles anything; what is not filled is zero on both sides and changes
no result. It makes two passes over each tile: the first finds maxima and counts in
integer arithmetic on the bits of the floats (exact, order-free, blind to a device
that flushes denormals); the second sums squares that were scaled by a power of two,
pairwise, so that they neither overflow nor lose more than a few units of rounding.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ttrace.backends.chunks import (
    CHUNK_TILES,
    NARROW_DTYPES,
    SPLIT_DTYPES,
    TILE_ELEMENTS,
)
from ttrace.backends.tile_table import NARROW, WIDE, Precision

_FOLDS = (8, 16)
"""How many rows a tile is summed over, stage by stage, before the host takes over."""


SMALL_FLOATS = {
    "float16": (5, 10, True),
    "float8_e4m3fn": (4, 3, False),
    "float8_e5m2": (5, 2, True),
}
"""Name -> bits of exponent, bits of mantissa, whether it has infinities."""

Chunk = Any
"""A jax array of one chunk, or what is sliced from it; kept loose for tracers."""


def make_kernel(reference: str, candidate: str | None) -> "Kernel":
    """The kernel for two dtypes; ``None``: the candidate equals the reference.

    It is called as ``kernel(reference, candidate, factor)`` or, where the candidate
    is None, ``kernel(reference)``, and returns

    * ``bits``, name -> ``[CHUNK_TILES]``, explained at ``_reduce_bits``;
    * ``sums``, name -> ``[CHUNK_TILES, k]``, to be summed over k: of squares, and
      products, of values times ``2**precision.scale_exponents(maximum)``.

    In tiles with elements that are not finite, only the maxima mean anything.
    """
    precision = NARROW if reference in NARROW_DTYPES else WIDE
    names = (reference,) if candidate is None else (reference, candidate)

    def kernel(*operands: Chunk) -> tuple[Any, Any]:
        sides = _decode_sides(operands, names)
        factor = operands[2] if candidate else None
        shape = (CHUNK_TILES, TILE_ELEMENTS)
        elements = _Elements(precision, _reshape(sides, shape), factor)
        bits = _reduce_bits(elements)
        if not elements.one_sided:
            bits |= _find_maximum(elements, bits["max_difference"])
        scales = {
            side: lax.bitcast_convert_type(
                precision.scale_field(bits[f"max_{side}"], jnp.clip)
                << precision.mantissa_bits,
                precision.values,
            )[:, None, None]
            for side in ("reference", "candidate", "difference")
            if f"max_{side}" in bits
        }
        lanes = TILE_ELEMENTS // _FOLDS[0] // _FOLDS[1]
        rows = _reshape(sides, (CHUNK_TILES, *_FOLDS, lanes))
        terms = [
            _squares(
                _Elements(
                    precision, jax.tree.map(lambda x, i=i: x[:, i], rows), factor
                ),
                scales,
            )
            for i in range(_FOLDS[0])
        ]
        # Without the barrier, XLA recomputes the first stage for each row of the next.
        sums = lax.optimization_barrier(_sum_pairwise(terms))
        folded = [{name: s[:, i] for name, s in sums.items()} for i in range(_FOLDS[1])]
        return bits, _sum_pairwise(folded)

    return _KERNELS.setdefault(("compare", *names), Kernel(kernel))


def make_filter(reference: str, candidate: str) -> "Kernel":
    """A kernel that takes out what is not finite on either side.

    It returns both sides, as float32 or float64 and with zeros where one of them is
    not finite, and counts of NaNs, infinities, and unequal elements among these.
    """
    precision = NARROW if reference in NARROW_DTYPES else WIDE
    names = (reference, candidate)

    def kernel(*chunks: Chunk) -> tuple[list[Chunk], dict[str, Chunk]]:
        shape = (CHUNK_TILES, TILE_ELEMENTS)
        sides = _reshape(_decode_sides(chunks, names), shape)
        values = [high if low is None else high + low for high, low in sides]
        infinity = precision.infinity_bits
        bits = [lax.bitcast_convert_type(v, precision.bits) for v in values]
        r, c = (b & precision.magnitude_mask for b in bits)
        finite = (r < infinity) & (c < infinity)
        unequal = ~finite & (bits[0] != bits[1]) & ~((r > infinity) & (c > infinity))
        masks = {
            "num_unequal": unequal,
            "num_nonfinite_unequal": unequal,
            "num_nan_reference": r > infinity,
            "num_nan_candidate": c > infinity,
            "num_inf_reference": r == infinity,
            "num_inf_candidate": c == infinity,
        }
        zero = jnp.zeros((), precision.values)
        counts = {n: jnp.sum(m, axis=1, dtype=np.int32) for n, m in masks.items()}
        return [jnp.where(finite, v, zero).reshape(-1) for v in values], counts

    return _KERNELS.setdefault(("filter", *names), Kernel(kernel))


class Kernel:
    """A jitted function; threads that need it at once compile it only once."""

    def __init__(
        self,
        function: Callable[..., Any],
        compiler_options: dict[str, Any] | None = None,
    ):
        self._function = jax.jit(function, compiler_options=compiler_options)
        self._lock = threading.Lock()
        self._is_compiled = False

    def __call__(self, *operands: Any) -> Any:
        if self._is_compiled:
            return self._function(*operands)
        with self._lock:
            outputs = self._function(*operands)
            self._is_compiled = True
            return outputs


Combine = Callable[[Any, Any], Any]

_KERNELS: dict[tuple[str, ...], Kernel] = {}


class _Elements:
    """Some elements of both sides, or of one if the other is equal."""

    def __init__(
        self,
        precision: Precision,
        sides: list[tuple[Chunk, Chunk | None]],
        factor: Chunk,
    ):
        self.precision = precision
        self.is_split = any(low is not None for _, low in sides)
        values = [high if low is None else high + low for high, low in sides]
        self.reference = values[0]
        self.one_sided = len(values) == 1
        if self.one_sided:
            return
        self.candidate = values[1]
        self.scaled = values[1] * factor
        self.difference = self.scaled - self.reference
        if self.is_split:
            zero = jnp.zeros((), precision.values)
            (r, r_low), (c, c_low) = (
                (high, zero if low is None else low) for high, low in sides
            )
            self.difference = (c * factor - r) + (c_low * factor - r_low)

    def bits(self, values: Chunk) -> Chunk:
        return lax.bitcast_convert_type(values, self.precision.bits)

    def magnitude(self, values: Chunk) -> Chunk:
        """Bits of the absolute value; ordered like these, NaN above infinity."""
        return self.bits(values) & np.array(
            self.precision.magnitude_mask, self.precision.bits
        )

    def unequal(self) -> Chunk:
        """Whether values differ; not by ``!=``, for which denormals may be 0."""
        if self.is_split:  # where a difference is 0 or far from denormal
            return self.difference != 0
        either = self.magnitude(self.reference) | self.magnitude(self.scaled)
        return (self.bits(self.reference) != self.bits(self.scaled)) & (either != 0)

    def inexact(self) -> Chunk:
        """Whether the difference was rounded."""
        return (self.reference + self.difference != self.scaled) | (
            self.scaled - self.difference != self.reference
        )


def _reduce_bits(x: _Elements) -> dict[str, Chunk]:
    """What can be said of each tile in integer arithmetic.

    ``max_*``: bits of the largest absolute values; ``min_*``: of the smallest but 0,
    minus 1; ``num_unequal``; ``num_lost``: unequal with a difference flushed to 0.
    """

    def smallest(values: Chunk) -> Chunk:
        # Zero wraps around to the largest unsigned number.
        unsigned = np.dtype(f"uint{8 * x.precision.bits.itemsize}")
        return lax.bitcast_convert_type(x.magnitude(values) - 1, unsigned)

    columns: dict[str, tuple[Chunk, Combine]] = {
        "max_reference": (x.magnitude(x.reference), lax.max),
        "min_reference": (smallest(x.reference), lax.min),
    }
    if not x.one_sided:
        difference, unequal = x.magnitude(x.difference), x.unequal()
        columns["max_candidate"] = (x.magnitude(x.candidate), lax.max)
        columns["min_candidate"] = (smallest(x.candidate), lax.min)
        columns["max_difference"] = (difference, lax.max)
        columns["num_unequal"] = (unequal.astype(np.int32), lax.add)
        lost = unequal & (difference == 0)
        columns["num_lost"] = (lost.astype(np.int32), lax.add)
    return _reduce(columns)


def _find_maximum(x: _Elements, max_difference: Chunk) -> dict[str, Chunk]:
    """Where in each tile the largest difference is first, and if it was rounded."""
    attained = x.magnitude(x.difference) == max_difference[:, None]
    position = lax.broadcasted_iota(np.int32, attained.shape, 1)
    return _reduce(
        {
            "max_difference_at": (
                jnp.where(attained, position, TILE_ELEMENTS),
                lax.min,
            ),
            "num_inexact": ((attained & x.inexact()).astype(np.int32), lax.add),
        }
    )


def _reduce(columns: dict[str, tuple[Chunk, Combine]]) -> dict[str, Chunk]:
    """Reduces each tile by several functions in one loop.

    XLA vectorizes that on CPUs as long as there are several, and none adds floats.
    """
    operands, combine = zip(*columns.values(), strict=True)
    initial = [
        (np.iinfo(operand.dtype).max if f is lax.min else 0)
        for operand, f in columns.values()
    ]
    reduced = lax.reduce(
        operands,
        tuple(np.array(i, o.dtype) for i, o in zip(initial, operands, strict=True)),
        lambda left, right: tuple(
            f(p, q) for f, p, q in zip(combine, left, right, strict=True)
        ),
        (1,),
    )
    return dict(zip(columns, reduced, strict=True))


def _squares(x: _Elements, scales: Mapping[str, Chunk]) -> dict[str, Chunk]:
    """Scaled squares and products of the elements."""
    reference = x.reference * scales["reference"]
    if x.one_sided:
        return {"reference": reference * reference}
    candidate = x.candidate * scales["candidate"]
    difference = x.difference * scales["difference"]
    return {
        "reference": reference * reference,
        "candidate": candidate * candidate,
        "difference": difference * difference,
        "product": reference * candidate,
    }


def _sum_pairwise(terms: list[dict[str, Chunk]]) -> dict[str, Chunk]:
    while len(terms) > 1:
        terms = [
            {name: left[name] + right[name] for name in left}
            for left, right in zip(terms[::2], terms[1::2], strict=True)
        ]
    return terms[0]


def _decode_sides(
    chunks: Sequence[Chunk], names: tuple[str, ...]
) -> list[tuple[Chunk, Chunk | None]]:
    # Cheap decoding is repeated in every loop, costly decoding is stored.
    sides = []
    for chunk, name in zip(chunks, names, strict=False):
        side = decode(chunk, name)
        sides.append(lax.optimization_barrier(side) if name in SMALL_FLOATS else side)
    return sides


def _reshape(sides: Any, shape: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda x: x.reshape(shape), sides)


def decode(chunk: Chunk, name: str) -> tuple[Chunk, Chunk | None]:
    """Values as ``high`` and ``low`` (or None), see ``numpy_backend.Values``.

    Bit tricks, for XLA converts small floats one by one on CPUs; and none of them
    has a denormal float32 on its way, which CPUs flush.
    """
    if name in SPLIT_DTYPES:
        low = lax.rem(chunk, jnp.full_like(chunk, 2**32))
        return (chunk - low).astype(np.float64), low.astype(np.float64)
    if name == "bfloat16":
        return lax.bitcast_convert_type(
            chunk.astype(np.uint32) << 16, np.dtype(np.float32)
        ), None
    if name in SMALL_FLOATS:
        return _decode_small_float(chunk, *SMALL_FLOATS[name]), None
    if name in ("float32", "float64"):
        return chunk, None
    return chunk.astype(np.float32), None


def _decode_small_float(
    chunk: Chunk, exponent_bits: int, mantissa_bits: int, has_infinity: bool
) -> Chunk:
    """Values in float32 of floats of at most 16 bits."""

    def as_float(bits: Chunk) -> Chunk:
        return lax.bitcast_convert_type(bits, np.dtype(np.float32))

    width = exponent_bits + mantissa_bits
    bits = chunk.astype(np.uint32)
    magnitude = bits & ((1 << width) - 1)
    sign = (bits >> width) << 31
    shifted = magnitude << (23 - mantissa_bits)
    bias = (1 << (exponent_bits - 1)) - 1
    normal = shifted + ((127 - bias) << 23)
    # A denormal lacks the leading 1: lend it one, and subtract that again.
    unit = (128 - bias) << 23
    denormal = lax.bitcast_convert_type(
        as_float(shifted | unit) - np.uint32(unit).view(np.float32), np.uint32
    )
    value = jnp.where(magnitude < (1 << mantissa_bits), denormal, normal)
    if has_infinity:
        first = ((1 << exponent_bits) - 1) << mantissa_bits
        value = jnp.where(magnitude >= first, shifted | 0x7F800000, value)
    else:
        value = jnp.where(magnitude == (1 << width) - 1, 0x7FC00000, value)
    return as_float(value | sign)
