"""Logical tensors of a trace, put together without the engine that is tested."""

import collections
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.views import block_view
from ttrace.store.reader import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assembled:
    """A logical tensor, put together from its shards.

    Attributes:
        values: In float64, with the recorded scale removed.
        is_covered: Whether every element was held by some rank.
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
            where = tuple(map(slice, block.region.start, block.region.stop))
            copies[place][where] += block_view(local, shard.layout, block)
            covers[place][where] = True
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
        is_covered=bool(np.logical_or.reduce(list(covers.values())).all()),
        spread=spread,
    )


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
        if other is not None and wanted(id_):
            assert other.global_shape == record.global_shape, id_
            found[id_] = relative_error(
                assemble(reference, record).values, assemble(candidate, other).values
            )
    return found
