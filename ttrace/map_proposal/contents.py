"""What recorded tensors hold: whole arrays, and digests that do not depend on order."""

import math
from dataclasses import dataclass, field

import numpy as np

from ttrace.compare.covers import cover
from ttrace.compare.rows import sum_terms
from ttrace.errors import LayoutError
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.views import block_view

MAX_ELEMENTS = 1 << 28
"""Larger tensors are not put together in memory; a map cannot be proposed for them."""

_CHUNK = 1 << 20
_SAMPLE = 4096

_ENOUGH = 64
"""So many values do not come together by chance, even in a dtype that has few."""

_WORD = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Content:
    """One logical tensor of a trace, and what its values tell of it.

    Attributes:
        id: Its identity.
        shape: Its logical shape.
        trace: The trace that holds it.
        digest: Sum of hashes of the bits of all elements, as float32, modulo 2^64. It
            does not depend on their order; that of a tensor is the sum of those of its
            parts.
        is_distinct: Most of its values are unlike each other, so that equal digests
            mean equal elements and no coincidence.
    """

    id: TensorId
    shape: tuple[int, ...]
    trace: TraceSource = field(repr=False)
    digest: int
    is_distinct: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def array(self) -> np.ndarray:
        """The whole tensor in float32, ``shape``."""
        array = assemble(self.trace, self.trace.info.tensors[self.id])
        assert array is not None, "it was put together before"
        return array


def read_content(trace: TraceSource, record: TensorRecord) -> Content | None:
    """Reads a tensor; None where it is too large, or not all of it was recorded."""
    array = assemble(trace, record)
    if array is None:
        return None
    return Content(
        id=record.id,
        shape=record.global_shape,
        trace=trace,
        digest=digest_of(array),
        is_distinct=is_distinct(array),
    )


def assemble(trace: TraceSource, record: TensorRecord) -> np.ndarray | None:
    """Puts a logical tensor together, in float32 (integers in their own dtype).

    Returns:
        A new array, ``record.global_shape``; None where it is too large, or elements of
        it were not recorded.
    """
    if math.prod(record.global_shape) > MAX_ELEMENTS:
        return None
    if any(shard.layout.index is not None for shard in record.shards):
        return None
    try:
        held = cover(record, trace.info)
    except LayoutError:
        return None
    if held.num_uncovered or held.missing_partials:
        return None
    dtype = np.dtype(np.float32)
    first = trace.load(record.shards[0]).dtype
    if first.kind in "iub":
        dtype = first
    whole = np.empty(record.global_shape, dtype)
    for region, operand in held.pieces:
        values = sum_terms(
            [
                block_view(
                    trace.load(term.shard), term.shard.layout, term.block, region
                )
                for term in operand.terms
            ]
        )
        with np.errstate(invalid="ignore", over="ignore"):
            whole[tuple(map(slice, region.start, region.stop))] = values
    return whole


def digest_of(array: np.ndarray) -> int:
    """The order-independent digest of an array; see ``Content.digest``."""
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    total = 0
    for start in range(0, flat.size, _CHUNK):
        words = flat[start : start + _CHUNK].view(np.uint32).astype(np.uint64)
        # The finalizer of splitmix64: equal sums of other words are unlikely.
        words += np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += int(np.add.reduce(words ^ (words >> np.uint64(31)), dtype=np.uint64))
    return total % _WORD


def sum_digests(contents: list[Content]) -> int:
    """The digest of a tensor that consists of these."""
    return sum(content.digest for content in contents) % _WORD


def is_distinct(array: np.ndarray) -> bool:
    """Whether most values are unlike each other; judged by a sample."""
    flat = array.reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLE)][:_SAMPLE]
    distinct = np.unique(sample)
    if not distinct.size or np.isin(distinct, (0, 1)).all():
        return False
    return distinct.size > min(sample.size // 2, _ENOUGH)
