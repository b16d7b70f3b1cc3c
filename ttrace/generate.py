"""The consistent tensor generator: any part of a logical tensor, made on its own.

An element is a function of the tensor's name, a seed and its index in the logical
tensor, so every layout and every framework makes the same tensor without
communication. Integer arithmetic on 32 bits and exact floating-point operations only
(powers of two, sums that fit): numpy, PyTorch and JAX give equal bits.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttrace.errors import LayoutError, UsageError
from ttrace.ir.layout import Region, ShardLayout
from ttrace.ir.views import block_view

_CHUNK = 1 << 16
"""Elements that are made at a time: temporary arrays stay in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Uniform over ``offset +- scale``, on a grid of 2^24 values.

    The standard deviation is ``scale / sqrt(3)``.

    Attributes:
        scale: Half of the width; a power of two.
        offset: The mean, exact in float32; added last, with one rounding.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self):
        _require_exact(self.scale, self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """Bell-shaped within ``offset +- 2 * scale``: the sum of four uniform values.

    Each of the four is uniform over ``+- scale / 2``. The standard deviation of the sum
    is ``scale / sqrt(3)``, that of ``Uniform``.

    Attributes:
        scale: Half of the largest distance from the mean; a power of two.
        offset: The mean, exact in float32; added last, with one rounding.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self):
        _require_exact(self.scale, self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """Integers in ``[low, high)``; frequencies differ by ``(high - low) / 2^32``.

    Attributes:
        low: Smallest value, at least -2^31.
        high: One past the largest value, below 2^31.
    """

    low: int = 0
    high: int

    def __post_init__(self):
        if not -(2**31) <= self.low < self.high < 2**31:
            raise UsageError(
                "not a range of integers",
                expected="-2^31 <= low < high < 2^31",
                got=f"[{self.low}, {self.high})",
                remedy="give bounds that a 32-bit integer holds",
            )


Distribution = Uniform | Bell | Integers
"""What the elements of a generated tensor look like."""


def generate(
    name: str, distribution: Distribution, shape: tuple[int, ...], *, seed: int = 0
) -> np.ndarray:
    """A whole logical tensor.

    Args:
        name: Identity of the tensor; equal names give equal tensors.
        distribution: What the elements look like.
        shape: Shape of the tensor.
        seed: Another seed gives other, unrelated elements.

    Returns:
        ``shape``, float32, or int64 for ``Integers``.
    """
    everything = Region(start=(0,) * len(shape), extent=shape)
    return generate_region(name, distribution, everything, shape, seed=seed)


def generate_region(
    name: str,
    distribution: Distribution,
    region: Region,
    global_shape: tuple[int, ...],
    *,
    seed: int = 0,
) -> np.ndarray:
    """A region of a logical tensor, without the rest of it.

    Args:
        name: Identity of the tensor.
        distribution: What the elements look like.
        region: The part wanted.
        global_shape: Shape of the logical tensor.
        seed: As in ``generate``.

    Returns:
        ``region.extent``, float32 or int64: exactly that slice of ``generate``.

    Raises:
        LayoutError: The region reaches outside the tensor.
    """
    if len(region.start) != len(global_shape) or any(
        start < 0 or stop > length
        for start, stop, length in zip(
            region.start, region.stop, global_shape, strict=True
        )
    ):
        raise LayoutError(
            "a region reaches outside its tensor",
            where=name,
            expected=f"within shape {list(global_shape)}",
            got=f"start {list(region.start)}, stop {list(region.stop)}",
            remedy="check the region against the shape",
        )
    values = np.empty(region.extent, dtype=_dtype(distribution))
    key = hash_key(name, seed)
    for piece in _pieces(region):
        made = _values_at(*_index_words(piece, global_shape), key, distribution)
        values[(*piece.slices_within(region), ...)] = made.reshape(piece.extent)
    return values


def generate_shard(
    name: str, distribution: Distribution, layout: ShardLayout, *, seed: int = 0
) -> np.ndarray:
    """What one rank holds of a logical tensor.

    Args:
        name: Identity of the tensor.
        distribution: What the elements look like.
        layout: What the rank holds.
        seed: As in ``generate``.

    Returns:
        ``layout.local_shape``, float32 or int64; padding is zero.

    Raises:
        LayoutError: The layout is partial: the sum would not be the tensor.
    """
    if layout.partial_axes:
        raise LayoutError(
            "a partial tensor cannot be generated",
            where=name,
            expected="a layout without partial axes",
            got=f"partial over {', '.join(layout.partial_axes)}",
            remedy="generate the reduced tensor",
        )
    local = np.zeros(layout.local_shape, dtype=_dtype(distribution))
    for block in layout.blocks:
        block_view(local, layout, block)[...] = generate_region(
            name, distribution, block.region, layout.global_shape, seed=seed
        )
    return local


# The core: uint32 arrays of numpy or jax.numpy, and only operations that both define
# alike. Constants are numpy scalars, because JAX reads a Python int as an int32.


def hash_key(name: str, seed: int = 0) -> tuple[np.uint32, np.uint32]:
    """Two words that set the elements of one tensor apart from all others."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    first, second = np.frombuffer(digest, dtype="<u4").astype(np.uint32)
    return first, second


def hash_words(
    high: Any, low: Any, key: tuple[np.uint32, np.uint32], *, stream: int = 0
) -> Any:
    """32 random bits per element.

    Args:
        high: Upper 32 bits of the linear indices, uint32, at least 1-D; broadcasts.
        low: Lower 32 bits, uint32, at least 1-D.
        key: From ``hash_key``.
        stream: Numbers the words that one element needs.

    Returns:
        uint32, the common shape of ``high`` and ``low``.
    """
    first, second = key
    step = np.uint32(stream * 0x9E3779B9 % 2**32)
    return _mix(_mix(low ^ first) + _mix((high ^ second) + step))


def _mix(x: Any) -> Any:
    """The ``lowbias32`` finalizer.

    Chris Wellons, "Prospecting for Hash Functions", 2018 (public domain); avalanche
    bias 0.17.
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def uniform_values(words: Any) -> Any:
    """Odd multiples of 2^-24 within +-1, float32, all exact; out of uint32 words."""
    odd = (words >> np.uint32(8)).astype(np.int32) * np.int32(2) + np.int32(1)
    return (odd - np.int32(2**24)).astype(np.float32) * np.float32(2.0**-24)


def bell_values(words: Any, more_words: Any) -> Any:
    """Sums of four 16-bit uniform values, within +-2, float32, all exact."""
    total = _low_half(words) + (words >> np.uint32(16))
    total = total + _low_half(more_words) + (more_words >> np.uint32(16))
    centred = total.astype(np.int32) - np.int32(2 * 0xFFFF)
    return centred.astype(np.float32) * np.float32(2.0**-16)


def integers_below(words: Any, bound: int) -> Any:
    """``words * bound / 2^32``, rounded down, in 32-bit arithmetic.

    Henry S. Warren, "Hacker's Delight", section 8-2 (multiply high unsigned).

    Args:
        words: uint32.
        bound: 1 to 2^32 - 1.
    """
    high, low = words >> np.uint32(16), _low_half(words)
    bound_high, bound_low = np.uint32(bound >> 16), np.uint32(bound & 0xFFFF)
    middle = high * bound_low + ((low * bound_low) >> np.uint32(16))
    carry = (low * bound_high + _low_half(middle)) >> np.uint32(16)
    return high * bound_high + (middle >> np.uint32(16)) + carry


def _low_half(words: Any) -> Any:
    return words & np.uint32(0xFFFF)


def _values_at(
    high: np.ndarray,
    low: np.ndarray,
    key: tuple[np.uint32, np.uint32],
    distribution: Distribution,
) -> np.ndarray:
    words = hash_words(high, low, key)
    match distribution:
        case Integers(low=smallest, high=stop):
            return integers_below(words, stop - smallest).astype(np.int64) + smallest
        case Uniform():
            values = uniform_values(words)
        case Bell():
            values = bell_values(words, hash_words(high, low, key, stream=1))
    return values * np.float32(distribution.scale) + np.float32(distribution.offset)


def _dtype(distribution: Distribution) -> type[np.generic]:
    return np.int64 if isinstance(distribution, Integers) else np.float32


def _pieces(region: Region) -> Iterator[Region]:
    """Cuts a region along its outer dims until a piece fits the chunk size."""
    if region.size <= _CHUNK:
        if region.size:
            yield region
        return
    dim = next(d for d, extent in enumerate(region.extent) if extent > 1)
    half = region.extent[dim] // 2
    for start, stop in ((0, half), (half, region.extent[dim])):
        yield from _pieces(
            Region(
                start=_replaced(region.start, dim, region.start[dim] + start),
                extent=_replaced(region.extent, dim, stop - start),
            )
        )


def _replaced(values: tuple[int, ...], dim: int, value: int) -> tuple[int, ...]:
    return (*values[:dim], value, *values[dim + 1 :])


def _index_words(
    region: Region, global_shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """C-order indices of a region's elements in the logical tensor.

    Returns:
        Their upper 32 bits, ``[region.size]`` or, where all are equal, ``[1]``; their
        lower 32 bits, ``[region.size]``.
    """
    index = np.zeros((1,) * len(global_shape), dtype=np.uint64)
    for dim, (start, stop) in enumerate(zip(region.start, region.stop, strict=True)):
        stride = math.prod(global_shape[dim + 1 :])
        along = np.arange(start, stop, dtype=np.uint64) * np.uint64(stride)
        index = index + along.reshape(-1, *(1,) * (len(global_shape) - dim - 1))
    index = index.reshape(-1)
    low = (index & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    ends = index[[0, -1]] >> np.uint64(32)
    if ends[0] == ends[1]:
        return ends[:1].astype(np.uint32), low
    return (index >> np.uint64(32)).astype(np.uint32), low


def _require_exact(scale: float, offset: float) -> None:
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5 or abs(exponent - 1) > 100:
        raise UsageError(
            "the scale of a generated tensor is not a power of two",
            expected="2^k with k from -100 to 100: any other factor rounds, and "
            "frameworks round differently",
            got=scale,
            remedy="take the nearest power of two",
        )
    with np.errstate(over="ignore"):
        is_exact = math.isfinite(offset) and float(np.float32(offset)) == offset
    if not is_exact:
        raise UsageError(
            "the offset of a generated tensor is not a float32 number",
            expected="a number that float32 holds exactly, such as 1.0 or 0.5",
            got=offset,
            remedy="round it to float32 first",
        )
