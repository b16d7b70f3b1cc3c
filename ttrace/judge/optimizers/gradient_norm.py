"""Of which gradients a recorded norm is the norm, where it is not that of all.

Reads no array: the norms of all gradients, and of what each rank stands for, are there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.judge.optimizers.norm_guesses import (
    StepGradient,
    explanation_of,
    is_same_norm,
)
from ttrace.judge.verdicts.replica_axes import coords_on
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNorm:
    """A norm of gradients that agree, and that is not the reference's.

    Attributes:
        id: The norm.
        recorded: The candidate's.
        reference: The reference's.
        of_all: What the candidate's gradients give, all of them once; None where the
            reference's norm is not that of its own gradients either.
        num_gradients: How many there are.
        explanation: What the candidate's norm is, in words; None if nothing gives it.
        ids: The gradients that it counts otherwise, if that is known.
    """

    id: TensorId
    recorded: float
    reference: float
    of_all: float | None
    num_gradients: int
    explanation: str | None = None
    ids: tuple[TensorId, ...] = ()


def find_gradient_norm(
    verdicts: Sequence[TensorVerdict], candidate: TraceInfo
) -> GradientNorm | None:
    """Looks at the first norm that fails, where all gradients of its step agree.

    Args:
        verdicts: On all tensors.
        candidate: The run under test.
    """
    failed = next((v for v in verdicts if v.status is Status.FAILED), None)
    if (
        failed is None
        or failed.id.kind is not Kind.GRAD_NORM
        or failed.cause not in (Cause.ERROR, Cause.REPLICAS)
        or failed.result is None
        or failed.result.stats.count != 1
    ):
        return None
    stats = failed.result.stats
    gradients = [
        v
        for v in verdicts
        if v.id.kind is Kind.MAIN_GRAD and v.id.step == failed.id.step
    ]
    compared = [v for v in gradients if v.result is not None]
    if not compared or any(v.status is not Status.PASSED for v in gradients):
        return None  # some are wrong, or only one run has them
    found = GradientNorm(
        id=failed.id,
        recorded=stats.candidate_norm,
        reference=stats.reference_norm,
        of_all=None,
        num_gradients=len(compared),
    )
    squares = [v.result.stats for v in compared if v.result is not None]
    of_reference = math.hypot(*(each.reference_norm for each in squares))
    if not is_same_norm(of_reference, found.reference):
        return found  # of what it is the norm, these do not say
    of_all = math.hypot(*(each.candidate_norm for each in squares))
    explanation, ids = explanation_of(
        found.recorded, [_gradient(v, candidate) for v in compared], candidate
    )
    return GradientNorm(
        id=found.id,
        recorded=found.recorded,
        reference=found.reference,
        of_all=of_all,
        num_gradients=found.num_gradients,
        explanation=explanation,
        ids=ids,
    )


def _gradient(verdict: TensorVerdict, candidate: TraceInfo) -> StepGradient:
    assert verdict.result is not None
    result = verdict.result
    record = result.plan.match.candidate
    coords = {
        rank: dict(axes)
        for rank, axes in coords_on(record.shards[0].layout.mesh, candidate).items()
    }
    return StepGradient(
        id=verdict.id,
        square=result.stats.candidate_norm**2,
        ndim=len(record.global_shape),
        by_rank={r: s.candidate_norm**2 for r, s in result.rank_stats.items()},
        coords=coords,
        copied=_copied(record, coords),
    )


def _copied(
    record: TensorRecord, coords: Mapping[int, Mapping[str, int]]
) -> frozenset[str]:
    """The axes along which a tensor is not cut."""
    parts: dict[tuple[tuple[str, int], ...], object] = {}
    for shard in record.shards:
        if shard.rank in coords:
            place = tuple(sorted(coords[shard.rank].items()))
            parts[place] = tuple(block.region for block in shard.layout.blocks)
    same: dict[str, bool] = {}
    for place, part in parts.items():
        for axis, index in place:
            first = tuple((a, 0 if a == axis else i) for a, i in place)
            if index and first in parts:
                same[axis] = same.get(axis, True) and parts[first] == part
    return frozenset(axis for axis, is_same in same.items() if is_same)
