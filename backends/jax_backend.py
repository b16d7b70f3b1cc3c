"""The default backend: packs pairs into chunks and runs jitted kernels."""

import contextlib
import functools
import importlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from ttrace.backends import jax_kernels
from ttrace.backends.batches import compare_by_batches
from ttrace.backends.chunks import (
    CHUNK_TILES,
    TILE_ELEMENTS,
    Lane,
    Span,
    Stages,
    Stream,
    bitwise_equal,
    choose_lane,
    pack_candidates,
    pack_references,
)
from ttrace.backends.live_statistics import has_float64 as platform_has_float64
from ttrace.backends.mapped_pairs import check_files, let_go_of
from ttrace.backends.numpy_backend import (
    compare_all,
    compare_range,
    exact_values,
    subtract,
)
from ttrace.backends.screen_kernels import run_screen
from ttrace.backends.tile_table import (
    NARROW,
    WIDE,
    TileTable,
    concatenate,
    make_screen_table,
    make_table,
)
from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats

MAX_TILES_TO_ORACLE = 16
"""Tiles of a chunk with NaN or Inf above which another kernel pays off."""


class JaxBackend:
    """Compares on the device jax has, in one reading wherever that loses nothing.

    The elements of all pairs of two dtypes form one stream of tiles, cut into
    chunks of one size, so that each kernel compiles once whatever the shapes. What
    happens to a chunk depends on its dtypes and values, and gives the same result:

    * Values of at most 32 bits are summed up in float64, in one kernel. Where the
      largest difference is, the host looks up in the tile that has it.
    * Float64 and wide integers, and everything where the device has no float64 (a
      TPU): kernels that scale values by powers of two first. Bitwise equal, as the
      host sees soon: only the reference goes to the device.
    * Many tiles have NaNs or infinities: a kernel takes them out first.
    * Single tiles have them, or denormals that matter, or values near the limits of
      the arithmetic: the numpy backend computes these tiles.

    A few float64 values or wide integers are not worth a compilation and are left to
    the numpy backend. Which way a pair goes never changes counts, maxima or positions,
    and norms by less than 1e-6.

    Args:
        num_threads: That pack chunks and wait for kernels; None: one per processor.
        min_wide_elements: Fewer elements than this of one dtype that needs float64,
            in one batch, are left to the numpy backend.
        has_float64: Whether the device computes float64 itself; None: as its platform
            says.
    """

    name = "jax"

    def __init__(
        self,
        *,
        num_threads: int | None = None,
        min_wide_elements: int = 1 << 20,
        has_float64: bool | None = None,
    ):
        self._has_float64 = has_float64
        self._num_threads = num_threads or min(8, os.cpu_count() or 1)
        self._min_wide_elements = min_wide_elements

    def compare(self, pairs: Iterable[ArrayPair]) -> Iterator[PairStats]:
        """See ``Backend`` and ``compare_by_batches``."""
        submit = functools.partial(self._submit, stages=Stages(self._num_threads))
        return compare_by_batches(pairs, submit, num_threads=self._num_threads)

    def _submit(
        self, batch: list[ArrayPair], pool: ThreadPoolExecutor, *, stages: Stages
    ) -> Callable[[], list[PairStats]]:
        """Starts the comparison of a batch; returns what waits for its results."""
        lanes: dict[Lane | None, list[int]] = defaultdict(list)
        for index, pair in enumerate(batch):
            assert pair.reference.shape == pair.candidate.shape, "pairs have one shape"
            lane = choose_lane(pair.reference.dtype, pair.candidate.dtype, pair.factor)
            lanes[lane].append(index)
        started, oracle = [], []
        for lane, indices in lanes.items():
            stream = None if lane is None else self._plan(lane, batch, indices)
            if stream is None:
                oracle += [(i, pool.submit(compare_all, batch[i])) for i in indices]
                continue
            chunks = range(0, stream.num_tiles, CHUNK_TILES)
            run = functools.partial(
                _run_chunk, stages=stages, has_float64=self._computes_float64()
            )
            futures = [pool.submit(run, stream, first) for first in chunks]
            started.append((indices, stream, futures))

        def collect() -> list[PairStats]:
            results = [PairStats()] * len(batch)
            for index, future in oracle:
                results[index] = future.result()
            for indices, stream, futures in started:
                table = concatenate([future.result() for future in futures])
                for index, stats in zip(indices, _collect(stream, table), strict=True):
                    results[index] = stats
            return results

        return collect

    def _computes_float64(self) -> bool:
        if self._has_float64 is None:
            self._has_float64 = platform_has_float64(jax.default_backend())
        return self._has_float64

    def _plan(
        self, lane: Lane, batch: list[ArrayPair], indices: list[int]
    ) -> Stream | None:
        stream = Stream(lane, [batch[index] for index in indices])
        if lane.precision is WIDE and sum(stream.sizes) < self._min_wide_elements:
            return None
        return stream


def _run_chunk(
    stream: Stream, first_tile: int, stages: Stages, *, has_float64: bool
) -> TileTable:
    """Computes the rows of one chunk of a stream."""
    lane = stream.lane
    spans = stream.spans(first_tile)
    num_tiles = min(CHUNK_TILES, stream.num_tiles - first_tile)
    is_screened = lane.precision is NARROW and has_float64
    run = _screen_chunk if is_screened else _run_kernels
    check_files(span.pair for span in spans)
    x64 = is_screened or lane.precision is WIDE
    with stages.lend() as buffers, x64_scope(x64), jax.debug_nans(False):
        reference = pack_references(spans, lane, buffers[0])
        candidate = pack_candidates(spans, lane, buffers[1])
        table, doubtful = run(lane, reference, candidate, num_tiles)
    rounded_to = np.dtype(np.float64) if is_screened else lane.precision.values
    for row in np.flatnonzero(doubtful).tolist():
        table.replace(row, _compare_tile(spans, row), rounded_to=rounded_to)
    for span in spans:
        let_go_of(span.pair, span.start, span.stop)
    return table


def _screen_chunk(
    lane: Lane, reference: np.ndarray, candidate: np.ndarray, num_tiles: int
) -> tuple[TileTable, np.ndarray]:
    """As ``_run_kernels``, in one reading of the chunk."""
    sides = (reference, candidate)
    columns = run_screen(lane.reference, lane.candidate, sides, lane.factor)
    infinite = np.maximum(columns["max_reference"], columns["max_candidate"])
    infinite = infinite >= NARROW.infinity_bits
    counts = {}
    if np.count_nonzero(infinite) > MAX_TILES_TO_ORACLE:
        clean = jax_kernels.make_filter(lane.reference, lane.candidate)
        finite, counts = clean(reference, candidate)
        columns = run_screen("float32", "float32", tuple(finite), lane.factor)
        counts = jax.device_get(counts)
    return make_screen_table(lane.factor, columns, counts, num_tiles)


def _run_kernels(
    lane: Lane, reference: np.ndarray, candidate: np.ndarray, num_tiles: int
) -> tuple[TileTable, np.ndarray]:
    """Rows of a chunk, and which of them only the oracle can tell.

    Waits for the device, so that the buffers behind the chunk are free again.
    """
    factor = np.array(lane.factor, lane.precision.values)
    if lane.may_be_equal and bitwise_equal(reference, candidate):
        kernel = jax_kernels.make_kernel(lane.reference, None)
        bits, sums = jax.device_get(kernel(reference))
    else:
        kernel = jax_kernels.make_kernel(lane.reference, lane.candidate)
        bits, sums = jax.device_get(kernel(reference, candidate, factor))
    infinite = bits["max_reference"] >= lane.precision.infinity_bits
    if "max_candidate" in bits:
        infinite |= bits["max_candidate"] >= lane.precision.infinity_bits
    counts = {}
    if not lane.is_split and np.count_nonzero(infinite) > MAX_TILES_TO_ORACLE:
        clean = jax_kernels.make_filter(lane.reference, lane.candidate)
        finite, counts = clean(reference, candidate)
        name = lane.precision.values.name
        kernel = jax_kernels.make_kernel(name, name)
        bits, sums, counts = jax.device_get((*kernel(*finite, factor), counts))
    return make_table(lane.precision, lane.factor, bits, sums, counts, num_tiles)


def _collect(stream: Stream, table: TileTable) -> list[PairStats]:
    """Statistics of each pair from those of all tiles."""

    def locate(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        is_small = stream.ends[indices] - stream.starts[indices] == 1
        found = dict(_locate_in_small(stream.pairs, indices[is_small].tolist()))
        for index in indices[~is_small].tolist():
            start, end = int(stream.starts[index]), int(stream.ends[index])
            tiles = [row - start for row in table.rows_with_maximum(start, end)]
            found[index] = _locate_maximum(stream.pairs[index], tiles)
        values, positions = zip(*(found[i] for i in indices.tolist()), strict=True)
        return np.array(values), np.array(positions)

    return table.reduce(stream.starts, stream.sizes, TILE_ELEMENTS, locate=locate)


def _compare_tile(spans: list[Span], row: int) -> PairStats:
    begin = row * TILE_ELEMENTS
    span = next(s for s in reversed(spans) if s.offset <= begin)
    start = span.start + begin - span.offset
    stop = min(start + TILE_ELEMENTS, span.stop)
    return compare_range(span.pair, start, stop)


def _locate_maximum(pair: ArrayPair, tiles: list[int]) -> tuple[float, int]:
    """The exact largest difference in some tiles, and where it is first."""
    largest, position = 0.0, 0
    for tile in tiles:
        start = tile * TILE_ELEMENTS
        stop = min(start + TILE_ELEMENTS, pair.reference.size)
        differences = np.abs(subtract(*exact_values(pair, start, stop)))
        offset = int(np.argmax(differences))
        if differences[offset] > largest:
            largest, position = float(differences[offset]), start + offset
    return largest, position


def _locate_in_small(
    pairs: list[ArrayPair], indices: list[int]
) -> Iterator[tuple[int, tuple[float, int]]]:
    """As ``_locate_maximum``, of pairs of one tile; many of them at once."""
    groups: dict[object, list[int]] = defaultdict(list)
    for index in indices:
        pair = pairs[index]
        groups[pair.reference.dtype, pair.candidate.dtype, pair.factor].append(index)
    for group in groups.values():
        for first in range(0, len(group), CHUNK_TILES):
            some = group[first : first + CHUNK_TILES]
            together = ArrayPair(
                reference=_joined(pairs[index].reference for index in some),
                candidate=_joined(pairs[index].candidate for index in some),
                factor=pairs[some[0]].factor,
            )
            size = together.reference.size
            differences = np.abs(subtract(*exact_values(together, 0, size)))
            sizes = np.array([pairs[index].reference.size for index in some])
            starts = np.cumsum(sizes) - sizes
            largest = np.maximum.reduceat(differences, starts)
            at = np.flatnonzero(differences == np.repeat(largest, sizes))
            positions = at[np.searchsorted(at, starts)] - starts
            yield from zip(
                some,
                zip(largest.tolist(), positions.tolist(), strict=True),
                strict=True,
            )


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays])


def x64_scope(enabled: bool) -> contextlib.AbstractContextManager[object]:
    """Float64 on or off within a scope, whatever the global configuration."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    # Before jax 0.8.
    return importlib.import_module("jax.experimental").enable_x64(enabled)
