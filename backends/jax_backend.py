"""The default backend: packs pairs into chunks of blocks and runs jitted kernels."""

import contextlib
import importlib
import math
import os
import queue
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import jax
import numpy as np

from ttrace.backends import jax_kernels
from ttrace.backends.block_table import (
    NARROW,
    WIDE,
    BlockTable,
    Precision,
    concatenate,
    make_table,
)
from ttrace.backends.jax_kernels import BLOCK_ELEMENTS, CHUNK_BLOCKS, CHUNK_ELEMENTS
from ttrace.backends.numpy_backend import (
    check_pair,
    compare_range,
    copy_range,
    exact_values,
    is_power_of_two,
    subtract,
)
from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats
from ttrace.ir.dtypes import DTYPES

BATCH_BYTES = 128 << 20
BATCH_PAIRS = 4096
MAX_BLOCKS_TO_ORACLE = 16
"""Blocks of a chunk with NaN or Inf above which another kernel pays off."""


class JaxBackend:
    """Compares on the device jax has, in float32 wherever that loses nothing.

    The elements of all pairs of two dtypes form one stream of blocks, cut into
    chunks of one size, so that each kernel compiles once whatever the shapes. A
    chunk goes one of three ways, each with the same result:

    * bitwise equal on the host: only the reference is reduced on the device;
    * as usual: one kernel computes everything but the position of the maximum,
      which the host looks up in the one block that holds it;
    * single blocks with denormals, or near the limits of the arithmetic, which the
      kernel reports as such: the numpy backend computes them.

    Pairs of float64 or wide integers take the same way in float64, in a scope of
    jax's x64 mode; small ones of these are not worth a compilation and are left to
    the numpy backend. Which way a pair goes never changes counts or positions, and
    sums by less than 1e-6.
    """

    name = "jax"

    def __init__(
        self, *, num_threads: int | None = None, min_wide_elements: int = 1 << 17
    ):
        """Args:
        num_threads: That stage chunks and wait for kernels.
        min_wide_elements: Pairs that need float64 and have fewer elements are left
            to the numpy backend.
        """
        self._num_threads = num_threads or min(8, os.cpu_count() or 1)
        self._min_wide_elements = min_wide_elements
        self._oracle_lane = _Lane(reference="", candidate="", factor=1.0)

    def compare(self, pairs: Iterable[ArrayPair]) -> Iterator[PairStats]:
        """See ``Backend``; reads ahead by up to two batches of ``BATCH_BYTES``."""
        with ThreadPoolExecutor(self._num_threads) as pool:
            stages = _Stages(self._num_threads)
            collect: Callable[[], list[PairStats]] = list
            for batch in _batches(pairs):
                collect_next = self._submit(batch, pool, stages)
                yield from collect()  # while threads are busy with the next batch
                collect = collect_next
            yield from collect()

    def _submit(
        self, batch: list[ArrayPair], pool: ThreadPoolExecutor, stages: "_Stages"
    ) -> Callable[[], list[PairStats]]:
        """Starts the comparison of a batch; returns what waits for its results."""
        lanes: dict[_Lane, list[int]] = defaultdict(list)
        for index, pair in enumerate(batch):
            lanes[self._choose_lane(pair)].append(index)
        oracle = [
            (
                index,
                pool.submit(
                    compare_range, batch[index], 0, batch[index].reference.size
                ),
            )
            for index in lanes.pop(self._oracle_lane, [])
        ]
        started = []
        for lane, indices in lanes.items():
            stream = _Stream(lane, [batch[index] for index in indices])
            chunks = range(0, stream.num_blocks, CHUNK_BLOCKS)
            futures = [pool.submit(_run_chunk, stream, c, stages) for c in chunks]
            started.append((indices, stream, futures))

        def collect() -> list[PairStats]:
            results = [PairStats()] * len(batch)
            for index, future in oracle:
                results[index] = future.result()
            for indices, stream, futures in started:
                table = concatenate([future.result() for future in futures])
                for index, stats in zip(indices, stream.collect(table), strict=True):
                    results[index] = stats
            return results

        return collect

    def _choose_lane(self, pair: ArrayPair) -> "_Lane":
        size = check_pair(pair)
        names = [pair.reference.dtype.name, pair.candidate.dtype.name]
        factor = pair.factor
        exponent = math.frexp(factor)[1] if is_power_of_two(factor) else None
        narrow = (
            all(name in jax_kernels.NARROW_DTYPES for name in names)
            and exponent is not None
            and abs(exponent) <= 60
        )
        if narrow:
            return _Lane(reference=names[0], candidate=names[1], factor=factor)
        if size < self._min_wide_elements or (exponent and abs(exponent) > 1000):
            return self._oracle_lane
        wide = [name if name in ("int64", "uint64") else "float64" for name in names]
        if exponent is None:
            return _Lane(reference=wide[0], candidate="float64", factor=1.0)
        return _Lane(reference=wide[0], candidate=wide[1], factor=factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """What pairs must share to share a chunk: the dtypes and the factor of a kernel."""

    reference: str
    candidate: str
    factor: float

    @property
    def precision(self) -> Precision:
        if self.reference in jax_kernels.NARROW_DTYPES:
            return NARROW
        return WIDE

    @property
    def is_split(self) -> bool:
        """Whether kernels keep a value in two parts."""
        return not {"int64", "uint64"}.isdisjoint((self.reference, self.candidate))

    @property
    def may_be_equal(self) -> bool:
        return self.reference == self.candidate and self.factor == 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Segment:
    """Elements [start, stop) of a pair, and where they begin in a chunk."""

    pair: ArrayPair
    start: int
    stop: int
    offset: int


class _Stream:
    """Blocks of several pairs, one pair after the other, each from a new block."""

    def __init__(self, lane: _Lane, pairs: list[ArrayPair]):
        self.lane = lane
        self.pairs = pairs
        sizes = np.array([pair.reference.size for pair in pairs])
        # An empty pair has a block too, of zeros, so that every pair has a row.
        ends = np.cumsum(np.maximum(-(-sizes // BLOCK_ELEMENTS), 1))
        self.ends = ends
        self.starts = np.concatenate([[0], ends[:-1]])
        self.num_blocks = int(ends[-1])

    def segments(self, first_block: int) -> list[_Segment]:
        """What lies in the chunk that begins with a block."""
        end_block = first_block + CHUNK_BLOCKS
        segments = []
        index = int(np.searchsorted(self.ends, first_block, side="right"))
        while index < len(self.pairs) and self.starts[index] < end_block:
            pair, pair_block = self.pairs[index], int(self.starts[index])
            begin = max(first_block, pair_block)
            segments.append(
                _Segment(
                    pair=pair,
                    start=(begin - pair_block) * BLOCK_ELEMENTS,
                    stop=min(
                        pair.reference.size, (end_block - pair_block) * BLOCK_ELEMENTS
                    ),
                    offset=(begin - first_block) * BLOCK_ELEMENTS,
                )
            )
            index += 1
        return segments

    def collect(self, table: BlockTable) -> list[PairStats]:
        """Statistics of each pair from those of all blocks."""
        counts = [pair.reference.size for pair in self.pairs]
        results, is_open = table.reduce(self.starts, counts, BLOCK_ELEMENTS)
        for index in np.flatnonzero(is_open).tolist():
            start, end = int(self.starts[index]), int(self.ends[index])
            blocks = [row - start for row in table.rows_with_maximum(start, end)]
            value, position = _locate_maximum(self.pairs[index], blocks)
            results[index] = replace(
                results[index], max_abs_diff=value, max_abs_diff_at=position
            )
        return results


class _Stages:
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


def _batches(pairs: Iterable[ArrayPair]) -> Iterator[list[ArrayPair]]:
    batch, num_bytes = [], 0
    for pair in pairs:
        batch.append(pair)
        num_bytes += pair.reference.nbytes + pair.candidate.nbytes
        if num_bytes >= BATCH_BYTES or len(batch) >= BATCH_PAIRS:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _run_chunk(stream: _Stream, first_block: int, stages: _Stages) -> BlockTable:
    """Computes the rows of one chunk of a stream."""
    lane = stream.lane
    segments = stream.segments(first_block)
    num_blocks = min(CHUNK_BLOCKS, stream.num_blocks - first_block)
    x64 = lane.precision is WIDE
    with stages.lend() as buffers, _x64_scope(x64):
        reference = _pack(
            [(s, s.pair.reference) for s in segments], lane.reference, buffers[0]
        )
        candidate = _pack(
            [(s, s.pair.candidate) for s in segments],
            lane.candidate,
            buffers[1],
            scaled=True,
        )
        table, doubtful = _run_kernels(lane, reference, candidate, num_blocks)
    for row in np.flatnonzero(doubtful).tolist():
        stats = _compare_block(segments, row)
        table.replace(row, stats, rounded_to=lane.precision.values)
    return table


def _run_kernels(
    lane: _Lane, reference: np.ndarray, candidate: np.ndarray, num_blocks: int
) -> tuple[BlockTable, np.ndarray]:
    """Rows of a chunk, and which of them only the oracle can tell.

    Waits for the device, so that the buffers behind the chunk are free again.
    """
    factor = np.array(lane.factor, lane.precision.values)
    if lane.may_be_equal and _bitwise_equal(reference, candidate):
        kernel = jax_kernels.make_kernel(lane.reference, None)
        bits, sums = jax.device_get(kernel(reference))
    else:
        kernel = jax_kernels.make_kernel(lane.reference, lane.candidate)
        bits, sums = jax.device_get(kernel(reference, candidate, factor))
    infinite = bits["max_reference"] >= lane.precision.infinity_bits
    if "max_candidate" in bits:
        infinite |= bits["max_candidate"] >= lane.precision.infinity_bits
    counts = {}
    if not lane.is_split and np.count_nonzero(infinite) > MAX_BLOCKS_TO_ORACLE:
        clean = jax_kernels.make_filter(lane.reference, lane.candidate)
        finite, counts = clean(reference, candidate)
        name = lane.precision.values.name
        kernel = jax_kernels.make_kernel(name, name)
        bits, sums, counts = jax.device_get((*kernel(*finite, factor), counts))
    return make_table(lane.precision, lane.factor, bits, sums, counts, num_blocks)


def _pack(
    parts: list[tuple[_Segment, np.ndarray]],
    name: str,
    buffer: np.ndarray,
    *,
    scaled: bool = False,
) -> np.ndarray:
    """The elements of a chunk as the dtype ``name``, padded by zeros.

    ``scaled``: applies factors that are no power of two, which kernels cannot
    without rounding differently from device to device.
    """
    carrier = np.dtype(jax_kernels.CARRIERS[name])
    chunk = buffer[: CHUNK_ELEMENTS * carrier.itemsize].view(carrier)
    end = 0
    for segment, array in parts:
        native = array.dtype == DTYPES[name].numpy
        if native:
            array = array.view(carrier)
        odd_factor = scaled and not is_power_of_two(segment.pair.factor)
        size = segment.stop - segment.start
        if (
            size == CHUNK_ELEMENTS
            and native
            and array.flags.c_contiguous
            and not odd_factor
        ):
            return array.reshape(-1)[segment.start : segment.stop]
        chunk[end : segment.offset] = 0
        end = segment.offset + size
        out = chunk[segment.offset : end]
        with np.errstate(all="ignore"):
            copy_range(array, segment.start, segment.stop, out)
            if odd_factor:
                out *= segment.pair.factor
    chunk[end:] = 0
    return chunk


def _bitwise_equal(left: np.ndarray, right: np.ndarray) -> bool:
    """Compares bytes; stops early, for what differs mostly does so soon."""
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


def _compare_block(segments: list[_Segment], row: int) -> PairStats:
    begin = row * BLOCK_ELEMENTS
    segment = next(s for s in reversed(segments) if s.offset <= begin)
    start = segment.start + begin - segment.offset
    stop = min(start + BLOCK_ELEMENTS, segment.stop)
    return compare_range(segment.pair, start, stop)


def _locate_maximum(pair: ArrayPair, blocks: list[int]) -> tuple[float, int]:
    """The exact largest difference in some blocks, and where it is first."""
    largest, position = 0.0, 0
    for block in blocks:
        start = block * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, pair.reference.size)
        differences = np.abs(subtract(*exact_values(pair, start, stop)))
        offset = int(np.argmax(differences))
        if differences[offset] > largest:
            largest, position = float(differences[offset]), start + offset
    return largest, position


def _x64_scope(enabled: bool) -> contextlib.AbstractContextManager[object]:
    """Float64 on or off within a scope, whatever the global configuration."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    # Before jax 0.8.
    return importlib.import_module("jax.experimental").enable_x64(enabled)
