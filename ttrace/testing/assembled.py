"""Logical tensors of a trace, put together without the engine that is tested."""

import collections
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttrace.ir.row_index import RowIndex
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.ir.trace import TensorRecord
from ttrace.ir.views import block_view
from ttrace.store.reader import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assembled:
    """A logical tensor, put together from its shards.

    Attributes:
        values: In float64, with the recorded scale removed.
        is_covered: Whether every element was held by some rank; of rows whose order
            depends on data, every element of those that are there.
        spread: Largest relative difference between replicas.
    """

    values: np.ndarray
    is_covered: bool
    spread: float


def assemble(trace: Trace, record: TensorRecord) -> Assembled:
    """Adds up partial sums, and keeps replicas apart to compare them."""
    copies = collections.defaultdict(lambda: np.zeros(record.global_shape))
    covers = collections.defaultdict(lambda: np.zeros(record.global_shape, bool))
    infos = {info.rank: info for info in trace.info.ranks}
    for shard in record.shards:
        coords = infos[shard.rank].mesh(shard.layout.mesh).coords
        partial = shard.layout.partial_axes
        place = tuple(c for axis, c in coords.items() if axis not in partial)
        local = np.asarray(trace.load(shard), dtype=np.float64) / shard.scale
        for block in shard.layout.blocks:
            where: list[Any] = list(map(slice, block.region.start, block.region.stop))
            if (index := shard.layout.index) is not None:
                where[index.dim] = row_positions(trace, index)
            copies[place][*where] += block_view(local, shard.layout, block)
            covers[place][*where] = True
    covered = np.logical_or.reduce(list(covers.values()))
    index = record.shards[0].layout.index
    if index is not None:
        is_there = covered.any(axis=tuple(set(range(covered.ndim)) - {index.dim}))
        covered = covered.compress(is_there, axis=index.dim)
    values = np.zeros(record.global_shape)
    for place, copy in copies.items():
        values[covers[place]] = copy[covers[place]]
    spread = max(
        relative_error(a[both], b[both])
        for (p, a), (q, b) in itertools.product(copies.items(), repeat=2)
        if (both := covers[p] & covers[q]).any() or p == q
    )
    return Assembled(
        values=values,
        is_covered=bool(covered.all()),
        spread=spread,
    )


def row_positions(trace: Trace, index: RowIndex) -> np.ndarray:
    """The position of every row, out of what the ranks of the index recorded."""
    record = trace.info.tensors[parse_tensor_id(index.id)]
    numbers = {shard.rank: trace.load(shard) for shard in record.shards}
    positions = []
    for part in index.parts:
        start, stop = part.numbers or (0, np.inf)
        positions += [n for n in numbers[part.rank].tolist() if start <= n < stop]
    return np.array(positions, dtype=np.int64) - index.origin


def relative_error(reference: np.ndarray, candidate: np.ndarray) -> float:
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(candidate - reference)) / (norm or 1.0)


def errors(
    reference: Trace, candidate: Trace, wanted: Callable[[TensorId], bool]
) -> dict[TensorId, float]:
    """Relative error of every tensor that both runs hold."""
    found = {}
    for id_, record in reference.info.tensors.items():
        other = candidate.info.tensors.get(id_)
        if other is not None and wanted(id_) and not id_.is_index:
            assert other.global_shape == record.global_shape, id_
            found[id_] = relative_error(
                assemble(reference, record).values, assemble(candidate, other).values
            )
    return found
