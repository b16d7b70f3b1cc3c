"""How pairs of any shape fill chunks of one size; numpy only."""

import contextlib
import functools
import math
import queue
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ttrace.backends.numpy_backend import copy_range, is_power_of_two
from ttrace.backends.tile_table import NARROW, WIDE, Precision
from ttrace.compare.backend import ArrayPair
from ttrace.ir.dtypes import DTYPES, dtype_named

TILE_ELEMENTS = 4096
CHUNK_TILES = 256
CHUNK_ELEMENTS = TILE_ELEMENTS * CHUNK_TILES

CARRIERS = {
    "float32": "float32",
    "bfloat16": "uint16",
    "float16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
    "int8": "int8",
    "int16": "int16",
    "uint8": "uint8",
    "uint16": "uint16",
    "bool": "uint8",
    "float64": "float64",
    "int64": "int64",
    "uint64": "uint64",
}
"""Dtype name -> the dtype of equal width under which its bits reach a device."""

SPLIT_DTYPES = frozenset({"int64", "uint64"})
"""Dtypes that float64 cannot hold: kernels keep their values in two parts."""

NARROW_DTYPES = frozenset(CARRIERS) - SPLIT_DTYPES - {"float64"}
"""Dtypes whose every value is a float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What pairs must share to share a chunk.

    Attributes:
        reference: Dtype name as which the reference is packed.
        candidate: The same of the candidate.
        factor: That the kernel applies to the candidate; a power of two. Any other
            is applied while packing, because how a device rounds it varies.
    """

    reference: str
    candidate: str
    factor: float

    @property
    def precision(self) -> Precision:
        return NARROW if self.reference in NARROW_DTYPES else WIDE

    @property
    def is_split(self) -> bool:
        return not SPLIT_DTYPES.isdisjoint((self.reference, self.candidate))

    @property
    def may_be_equal(self) -> bool:
        """Whether equal bits mean equal values."""
        return self.reference == self.candidate and self.factor == 1.0


@functools.lru_cache(maxsize=1024)
def choose_lane(reference: np.dtype, candidate: np.dtype, factor: float) -> Lane | None:
    """The lane of a pair; None for what no kernel takes: foreign bytes, odd scales.

    Raises:
        DtypeError: A dtype that ttrace does not compare.
    """
    names = [dtype_named(dtype.name).name for dtype in (reference, candidate)]
    if not (reference.isnative and candidate.isnative):
        return None
    exponent = math.frexp(factor)[1] if is_power_of_two(factor) else None
    if NARROW_DTYPES.issuperset(names) and exponent is not None and abs(exponent) <= 60:
        return Lane(reference=names[0], candidate=names[1], factor=factor)
    wide = [name if name in SPLIT_DTYPES else "float64" for name in names]
    if exponent is None:
        return Lane(reference=wide[0], candidate="float64", factor=1.0)
    if abs(exponent) > 1000:
        return None
    return Lane(reference=wide[0], candidate=wide[1], factor=factor)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Span:
    """Elements [start, stop) of a pair, and where they begin in a chunk."""

    pair: ArrayPair
    start: int
    stop: int
    offset: int


class Stream:
    """Tiles of the pairs of a lane, one after the other, each pair from a new one.

    Attributes:
        starts: First tile of each pair.
        ends: Tile after the last of each pair.
    """

    def __init__(self, lane: Lane, pairs: list[ArrayPair]):
        self.lane = lane
        self.pairs = pairs
        self.sizes = [pair.reference.size for pair in pairs]
        # An empty pair has a tile too, of zeros, so that every pair has a row.
        tiles = np.maximum(-(-np.array(self.sizes) // TILE_ELEMENTS), 1)
        self.ends = np.cumsum(tiles)
        self.starts = self.ends - tiles
        self.num_tiles = int(self.ends[-1])

    def spans(self, first_tile: int) -> list[Span]:
        """What lies in the chunk that begins with a tile."""
        end_tile = first_tile + CHUNK_TILES
        first = int(np.searchsorted(self.ends, first_tile, side="right"))
        end = int(np.searchsorted(self.starts, end_tile))
        spans = []
        for index, pair_tile in enumerate(self.starts[first:end].tolist(), first):
            begin = max(first_tile, pair_tile)
            stop = (end_tile - pair_tile) * TILE_ELEMENTS
            spans.append(
                Span(
                    pair=self.pairs[index],
                    start=(begin - pair_tile) * TILE_ELEMENTS,
                    stop=min(self.sizes[index], stop),
                    offset=(begin - first_tile) * TILE_ELEMENTS,
                )
            )
        return spans


class Stages:
    """Buffers in which chunks are packed; one for each thread, lent for a chunk."""

    def __init__(self, num_stages: int):
        self._free: queue.SimpleQueue[tuple[np.ndarray, np.ndarray]] = (
            queue.SimpleQueue()
        )
        for _ in range(num_stages):
            self._free.put((_aligned_bytes(), _aligned_bytes()))

    @contextlib.contextmanager
    def lend(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        stage = self._free.get()
        try:
            yield stage
        finally:
            self._free.put(stage)


def _aligned_bytes() -> np.ndarray:
    """Room for a chunk, aligned such that jax on a CPU takes it without a copy."""
    buffer = np.empty(CHUNK_ELEMENTS * 8 + 64, np.uint8)
    offset = -buffer.ctypes.data % 64
    return buffer[offset : offset + CHUNK_ELEMENTS * 8]


def pack_references(spans: list[Span], lane: Lane, buffer: np.ndarray) -> np.ndarray:
    """References of a chunk: from the buffer, or a slice of an array that fills it."""
    parts = [(s, s.pair.reference, 1.0) for s in spans]
    return _pack(parts, lane.reference, buffer)


def pack_candidates(spans: list[Span], lane: Lane, buffer: np.ndarray) -> np.ndarray:
    """Candidates of a chunk, with the factors that the kernel does not apply."""
    parts = [
        (s, s.pair.candidate, s.pair.factor / lane.factor)  # one of them is 1, or both
        for s in spans
    ]
    return _pack(parts, lane.candidate, buffer)


def _pack(
    parts: list[tuple[Span, np.ndarray, float]], name: str, buffer: np.ndarray
) -> np.ndarray:
    carrier, dtype = np.dtype(CARRIERS[name]), DTYPES[name].numpy
    chunk = buffer[: CHUNK_ELEMENTS * carrier.itemsize].view(carrier)
    end = 0
    with np.errstate(all="ignore"):
        for span, array, factor in parts:
            if array.dtype == dtype:
                array = array.view(carrier)
                is_slice = factor == 1.0 and array.flags.c_contiguous
                if is_slice and span.stop - span.start == CHUNK_ELEMENTS:
                    return array.reshape(-1)[span.start : span.stop]
            chunk[end : span.offset] = 0
            end = span.offset + span.stop - span.start
            packed = chunk[span.offset : end]
            copy_range(array, span.start, span.stop, packed)
            if factor != 1.0:
                packed *= factor
    chunk[end:] = 0
    return chunk


def bitwise_equal(left: np.ndarray, right: np.ndarray) -> bool:
    """Compares the bytes of chunks; stops early, for what differs mostly does soon."""
    left, right = left.view(np.uint8), right.view(np.uint8)
    start, step = 0, 4096
    while start < left.size:
        stop = min(start + step, left.size)
        if not np.array_equal(
            left[start:stop].view(np.uint64), right[start:stop].view(np.uint64)
        ):
            return False
        start, step = stop, min(8 * step, 1 << 18)
    return True
