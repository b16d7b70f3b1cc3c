"""The backend that begins at once: numpy on all cores, in float64.

Importing and compiling jax takes a second, which short comparisons need not pay.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ttrace.backends.batches import compare_by_batches
from ttrace.backends.cpu_kernels import (
    BLOCK_ELEMENTS,
    Scratch,
    measure_many,
    measure_range,
)
from ttrace.backends.mapped_pairs import check_files, let_go_of
from ttrace.backends.numpy_backend import compare_range
from ttrace.backends.tile_table import COUNTS, SIDES, TileTable
from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats

SMALL_ELEMENTS = 1 << 12
"""Pairs up to this size are looked at many at once."""

TASK_BLOCKS = 8
"""Blocks that a thread goes over between two looks at the size of their files."""


class CpuBackend:
    """Compares in float64 by numpy's vectorized loops, several threads at once.

    Args:
        num_threads: That compare; None: one per processor.
    """

    name = "cpu"

    def __init__(self, *, num_threads: int | None = None):
        self._num_threads = num_threads or min(8, os.cpu_count() or 1)
        self._local = threading.local()

    def compare(self, pairs: Iterable[ArrayPair]) -> Iterator[PairStats]:
        """See ``Backend`` and ``compare_by_batches``."""
        return compare_by_batches(pairs, self._submit, num_threads=self._num_threads)

    def _submit(
        self, batch: list[ArrayPair], pool: ThreadPoolExecutor
    ) -> Callable[[], list[PairStats]]:
        """Starts the comparison of a batch; returns what waits for its results."""
        for pair in batch:
            assert pair.reference.shape == pair.candidate.shape, "pairs have one shape"
        sizes = [pair.reference.size for pair in batch]
        # An empty pair has a row too, of zeros.
        num_rows = np.maximum(-(-np.array(sizes) // BLOCK_ELEMENTS), 1)
        starts = np.cumsum(num_rows) - num_rows
        table = _empty_table(int(num_rows.sum()))
        futures = [
            pool.submit(self._fill_blocks, table, blocks)
            for blocks in _tasks(batch, starts.tolist())
        ]
        futures += [
            pool.submit(self._fill_many, table, rows, pairs)
            for rows, pairs in _groups(batch, starts.tolist())
        ]

        def collect() -> list[PairStats]:
            for future in futures:
                future.result()
            return table.reduce(starts, sizes, BLOCK_ELEMENTS)

        return collect

    def _fill_blocks(self, table: TileTable, blocks: list["_Block"]) -> None:
        """Computes rows of larger pairs."""
        check_files(block.pair for block in blocks)
        with np.errstate(all="ignore"):
            for block in blocks:
                stats = measure_range(
                    block.pair, block.start, block.stop, self._scratch()
                )
                if stats is None:
                    exact = compare_range(block.pair, block.start, block.stop)
                    _replace(table, block.row, exact)
                    continue
                for side, total, maximum in zip(
                    SIDES, stats.sums, stats.maxima, strict=True
                ):
                    table.sums[side][block.row] = total
                    table.maxima[side][block.row] = maximum
                table.products[block.row] = stats.product
                table.max_difference_at[block.row] = stats.max_difference_at
                for name, count in stats.counts.items():
                    table.counts[name][block.row] = count
        for pair, start, stop in _parts(blocks):
            let_go_of(pair, start, stop)

    def _fill_many(
        self, table: TileTable, rows: list[int], pairs: list[ArrayPair]
    ) -> None:
        """Computes the rows of small pairs of the same dtypes."""
        check_files(pairs)
        with np.errstate(all="ignore"):
            stats = measure_many(pairs, self._scratch())
        unsafe = range(len(pairs))
        if stats is not None:
            for side, sums, maxima in zip(SIDES, stats.sums, stats.maxima, strict=True):
                table.sums[side][rows] = sums
                table.maxima[side][rows] = maxima
            table.products[rows] = stats.product
            table.max_difference_at[rows] = stats.max_difference_at
            for name, counts in stats.counts.items():
                table.counts[name][rows] = counts
            unsafe = np.flatnonzero(~stats.is_safe).tolist()
        for index in unsafe:
            pair = pairs[index]
            _replace(table, rows[index], compare_range(pair, 0, pair.reference.size))

    def _scratch(self) -> Scratch:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = Scratch()
        return self._local.scratch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Elements [start, stop) of a pair, and the row they belong in."""

    pair: ArrayPair
    row: int
    start: int
    stop: int


def _tasks(batch: list[ArrayPair], starts: list[int]) -> Iterator[list[_Block]]:
    """Blocks of the pairs that are not small, for one thread after another."""
    task: list[_Block] = []
    num_elements = 0
    for pair, first_row in zip(batch, starts, strict=True):
        size = pair.reference.size
        if size <= SMALL_ELEMENTS:
            continue
        for row, start in enumerate(range(0, size, BLOCK_ELEMENTS), first_row):
            stop = min(start + BLOCK_ELEMENTS, size)
            task.append(_Block(pair=pair, row=row, start=start, stop=stop))
            num_elements += stop - start
            if num_elements >= TASK_BLOCKS * BLOCK_ELEMENTS:
                yield task
                task, num_elements = [], 0
    if task:
        yield task


def _groups(
    batch: list[ArrayPair], starts: list[int]
) -> Iterator[tuple[list[int], list[ArrayPair]]]:
    """Rows and pairs of small pairs of the same dtypes, together one block at most."""
    groups: dict[
        tuple[np.dtype, np.dtype], tuple[list[int], list[ArrayPair], list[int]]
    ] = {}
    for pair, row in zip(batch, starts, strict=True):
        size = pair.reference.size
        if not 0 < size <= SMALL_ELEMENTS:
            continue
        key = (pair.reference.dtype, pair.candidate.dtype)
        rows, pairs, room = groups.setdefault(key, ([], [], [BLOCK_ELEMENTS]))
        if room[0] < size:
            yield rows, pairs
            rows, pairs, room = groups[key] = ([], [], [BLOCK_ELEMENTS])
        rows.append(row)
        pairs.append(pair)
        room[0] -= size
    for rows, pairs, _ in groups.values():
        yield rows, pairs


def _parts(blocks: list[_Block]) -> Iterator[tuple[ArrayPair, int, int]]:
    """Pairs, and which elements of each the blocks are together."""
    first = blocks[0]
    stop = first.stop
    for block in blocks[1:]:
        if block.pair is not first.pair:
            yield first.pair, first.start, stop
            first = block
        stop = block.stop
    yield first.pair, first.start, stop


def _empty_table(num_rows: int) -> TileTable:
    return TileTable(
        sums={side: np.zeros(num_rows) for side in SIDES},
        exponents={side: np.zeros(num_rows, np.int32) for side in SIDES},
        products=np.zeros(num_rows),
        maxima={side: np.zeros(num_rows) for side in SIDES},
        counts={name: np.zeros(num_rows, np.int64) for name in COUNTS},
        max_difference_at=np.zeros(num_rows, np.int64),
        inexact=np.zeros(num_rows, bool),
    )


def _replace(table: TileTable, row: int, stats: PairStats) -> None:
    """Puts what the numpy backend says into a row."""
    table.replace(row, stats, rounded_to=np.dtype(np.float64))
