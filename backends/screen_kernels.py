"""Kernels for devices that compute float64: all statistics of a chunk in one reading.

Values of at most 32 bits are subtracted and summed up in float64, where their squares
neither overflow nor underflow, and nothing has to be scaled. What XLA makes of that
on a CPU is measured in docs/performance.md: one vectorized loop for the sums, and one
for what integer arithmetic tells.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ttrace.backends.chunks import CHUNK_TILES, TILE_ELEMENTS
from ttrace.backends.jax_kernels import SMALL_FLOATS, Kernel, decode
from ttrace.backends.tile_table import NARROW

REASSOCIATE = {
    "xla_cpu_enable_fast_math": True,
    "xla_cpu_fast_math_honor_nans": True,
    "xla_cpu_fast_math_honor_infs": True,
    "xla_cpu_fast_math_honor_functions": True,
    "xla_cpu_fast_math_honor_division": True,
}
"""Lets LLVM keep several partial sums, without which no sum of floats is vectorized.
All else that goes by the name of fast math stays off."""

_SHAPE = (CHUNK_TILES, TILE_ELEMENTS)

_TINY = 2.0**-90
"""Less than 1e-9 of a norm above this is due to denormals of a tile."""

_KERNELS: dict[tuple[str, ...], Kernel] = {}

Chunk = Any
"""A jax array of one chunk, or a tracer of it."""


def run_screen(
    reference: str, candidate: str, chunks: tuple[Chunk, Chunk], factor: float
) -> dict[str, np.ndarray]:
    """Statistics of the tiles of a chunk, as columns: ``[CHUNK_TILES]``.

    Args:
        reference: Name of the dtype whose bits the first chunk holds.
        candidate: The same of the second.
        chunks: Reference and candidate.
        factor: Power of two that multiplies the candidate.

    Returns:
        ``reference``, ``candidate``, ``difference``: sums of squares, of the values as
        they are, without the factor; ``product``: the inner product; float64.
        ``max_difference``: float64. ``max_reference``, ``max_candidate``: float32, bits
        as int32. ``num_unequal``. Where denormals, which a device may take for 0, could
        matter, ``smallest``: bits of the smallest magnitude but 0 of either side, minus
        1; uint32.

        Where a value is not finite, only the maxima mean anything.
    """
    sides = []
    for name, chunk in zip((reference, candidate), chunks, strict=True):
        # Decoding is worth a pass of its own: the loop of the sums is half as wide.
        sides.append(_decoder(name)(chunk) if name in SMALL_FLOATS else chunk)
    names = tuple(
        "float32" if name in SMALL_FLOATS else name for name in (reference, candidate)
    )
    if factor == 1.0:
        columns = _fetched(_screen(*names, with_factor=False)(*sides), _COLUMNS)
        if not _are_tiny(columns).any():
            return columns
    found = _screen(*names, with_factor=True)(*sides, np.float64(factor))
    columns = _fetched(found, (_COLUMNS[0], (*_COLUMNS[1], "smallest")))
    columns["smallest"] = columns["smallest"].view(np.uint32)
    return columns


_COLUMNS = (
    ("reference", "candidate", "difference", "product", "max_difference"),
    ("max_reference", "max_candidate", "num_unequal"),
)
"""Rows of what a kernel returns: one array of float64 and one of int32, as fetching
many small ones takes longer than computing them."""


def _fetched(
    arrays: Any, names: tuple[tuple[str, ...], tuple[str, ...]]
) -> dict[str, np.ndarray]:
    return {
        name: row
        for array, of_array in zip(jax.device_get(arrays), names, strict=True)
        for name, row in zip(of_array, array, strict=True)
    }


def _are_tiny(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Which tiles denormals could make a difference to.

    At most 2**-125 for each element, they are nothing beside larger ones.
    """
    tiny = (columns["max_difference"] < _TINY) & (columns["num_unequal"] > 0)
    for side in ("reference", "candidate"):
        tiny |= (columns[side] < _TINY**2) & (columns[f"max_{side}"] > 0)
    return tiny


def _decoder(name: str) -> Kernel:
    return _KERNELS.setdefault(
        ("decode", name), Kernel(lambda chunk: decode(chunk, name)[0])
    )


def _screen(reference: str, candidate: str, *, with_factor: bool) -> Kernel:
    def kernel(left: Chunk, right: Chunk, factor: Chunk = None) -> tuple[Chunk, Chunk]:
        r = decode(left, reference)[0].reshape(_SHAPE)
        c = decode(right, candidate)[0].reshape(_SHAPE)
        found = _sums(r, c, factor) | _bits(r, c, with_smallest=factor is not None)
        floats, integers = _COLUMNS
        if factor is not None:
            integers = (*integers, "smallest")
        return jnp.stack([found[name] for name in floats]), jnp.stack(
            [_as_int32(found[name]) for name in integers]
        )

    key = ("screen", reference, candidate, str(with_factor))
    options = REASSOCIATE if jax.default_backend() == "cpu" else None
    return _KERNELS.setdefault(key, Kernel(kernel, options))


def _as_int32(column: Chunk) -> Chunk:
    """Counts by value, magnitudes by their bits."""
    if column.dtype == np.uint32:
        return lax.bitcast_convert_type(column, np.dtype(np.int32))
    return column.astype(np.int32)


def _sums(r: Chunk, c: Chunk, factor: Chunk) -> dict[str, Chunk]:
    r, c = r.astype(np.float64), c.astype(np.float64)
    scaled = c if factor is None else c * factor
    difference = scaled - r
    # The largest number by its bits, as the maximum of floats has rules for NaN that
    # cost more than all the rest.
    magnitude = lax.bitcast_convert_type(jnp.abs(difference), np.dtype(np.int64))
    columns = {
        "reference": r * r,
        "candidate": c * c,
        "difference": difference * difference,
        "product": r * c,
        "max_difference": magnitude,
    }
    combine = [lax.add] * 4 + [lax.max]
    if factor is not None:
        columns["num_unequal"] = (difference != 0).astype(np.int64)
        combine.append(lax.add)
    found = _reduce(columns, combine)
    found["max_difference"] = lax.bitcast_convert_type(
        found["max_difference"], np.dtype(np.float64)
    )
    return found


def _bits(r: Chunk, c: Chunk, *, with_smallest: bool) -> dict[str, Chunk]:
    bits = [lax.bitcast_convert_type(side, np.dtype(np.int32)) for side in (r, c)]
    mask = np.int32(NARROW.magnitude_mask)
    left, right = (side & mask for side in bits)
    columns = {"max_reference": left, "max_candidate": right}
    combine = [lax.max, lax.max]
    if with_smallest:
        unsigned = [
            lax.bitcast_convert_type(side - np.int32(1), np.dtype(np.uint32))
            for side in (left, right)
        ]
        columns["smallest"] = lax.min(*unsigned)
        combine.append(lax.min)
    else:
        # By the bits, as a device may take denormals for 0.
        unequal = (bits[0] != bits[1]) & ((left | right) != 0)
        columns["num_unequal"] = unequal.astype(np.int32)
        combine.append(lax.add)
    return _reduce(columns, combine)


def _reduce(columns: dict[str, Chunk], combine: list[Any]) -> dict[str, Chunk]:
    """Reduces each tile by several functions in one loop."""
    initial = [
        np.array(np.iinfo(c.dtype).max if f is lax.min else 0, c.dtype)
        for c, f in zip(columns.values(), combine, strict=True)
    ]
    reduced = lax.reduce(
        tuple(columns.values()),
        tuple(initial),
        lambda left, right: tuple(
            f(p, q) for f, p, q in zip(combine, left, right, strict=True)
        ),
        (1,),
    )
    return dict(zip(columns, reduced, strict=True))
