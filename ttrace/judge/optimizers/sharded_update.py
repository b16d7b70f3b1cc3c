"""Updates that are orthogonal in each rank's shard, and not in the whole matrix.

Muon makes its update of a matrix orthogonal, so that its singular values are about
alike (Jordan et al., "Muon", 2024); five iterations leave them within a factor of two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.updates import parameter_before
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_ALIKE = 8.0
"""The largest singular value over the least, of a matrix that was made orthogonal."""

_LIKE_REFERENCE = 1.5
"""Times that of the reference, which no shard is beyond."""

_FAR = 2.0
"""Times that of the reference and of all shards, which the whole is beyond."""

_MOST_ROWS = 1024
_LEAST_ROWS = 4
"""Rows and columns of a shard; of fewer, singular values are alike by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedUpdate:
    """Updates of matrices, orthogonal by shard.

    Attributes:
        ids: The updated parameters, of those read all that are far from orthogonal.
        num_shards: Of the first of them.
        spread: The largest singular value over the least of its whole update.
        spread_of_reference: Likewise, of the reference.
    """

    ids: tuple[TensorId, ...]
    num_shards: int
    spread: float
    spread_of_reference: float


def find_sharded_update(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> ShardedUpdate | None:
    """Looks at the updates of matrices that fail first, where all gradients agree.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    first = next((v for v in verdicts if v.status is Status.FAILED), None)
    if first is None or first.id.kind is not Kind.UPDATED_PARAM:
        return None
    found: list[tuple[TensorId, int, float, float]] = []
    for verdict in first_failed(verdicts, lambda id_: id_.kind is Kind.UPDATED_PARAM):
        record = candidate.info.tensors.get(verdict.id)
        if record is None or len(record.global_shape) != 2:
            continue
        ours, theirs = (_update(verdict.id, run) for run in (candidate, reference))
        blocks = _blocks(record)
        if ours is None or theirs is None or len(blocks) < 2:
            return None
        if max(ours.shape) > _MOST_ROWS:
            return None
        shards = [ours[block] for block in blocks]
        if any(min(shard.shape) < _LEAST_ROWS for shard in shards):
            return None
        whole, of_reference = _spread(ours), _spread(theirs)
        largest = max(of_reference, *map(_spread, shards))
        if largest > _ALIKE:
            return None
        if largest > _LIKE_REFERENCE * of_reference or whole < _FAR * largest:
            continue  # of a tall matrix, shards of rows are orthogonal together, too
        found.append((verdict.id, len(blocks), whole, of_reference))
    if not found:
        return None
    _, number, spread, of_reference = found[0]
    return ShardedUpdate(
        ids=tuple(id_ for id_, *_ in found),
        num_shards=number,
        spread=spread,
        spread_of_reference=of_reference,
    )


def _update(updated: TensorId, run: TraceSource) -> np.ndarray | None:
    before = parameter_before(updated, run.info)
    start = None if before is None else values_of(before.id, run)
    end = values_of(updated, run)
    return None if start is None or end is None else end - start


def _blocks(record: TensorRecord) -> list[tuple[slice, ...]]:
    """Where the shards lie that are not copies of others."""
    found = {
        tuple(zip(block.region.start, block.region.stop, strict=True)): None
        for shard in record.shards
        for block in shard.layout.blocks
    }
    return [tuple(slice(*bounds) for bounds in region) for region in found]


def _spread(matrix: np.ndarray) -> float:
    sizes = np.linalg.svd(matrix, compute_uv=False)
    return float(sizes[0] / sizes[-1]) if sizes[-1] > 0 else float("inf")
