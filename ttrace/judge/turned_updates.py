"""Updates that turn with the sign of a gradient's smallest elements.

Adam's first steps move every element of a parameter by about the learning rate,
whatever the size of its gradient. An element of the gradient that is no larger than
what correct runs differ by may have either sign, and its update too. There are few of
them, so that noise runs often turn none, and measure next to no noise of the parameter.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.tolerance import TolerancePolicy
from ttrace.judge.updates import parameter_before
from ttrace.judge.verdict import Cause, Status, TensorVerdict


def excuse_turned_updates(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    *,
    policy: TolerancePolicy,
) -> tuple[TensorVerdict, ...]:
    """Lets pass an updated parameter whose error is no more than turned updates.

    An update may have turned where the gradient agrees, and is no larger than the
    largest difference of its elements: only there can its sign be another one. What an
    element may be off by is twice its own update in the reference, so that of an
    optimizer whose updates grow with the gradient next to nothing is let pass.

    Args:
        verdicts: One per tensor.
        reference: The trusted run; only gradients and parameters of what failed by a
            measured tolerance are read.
        policy: Says how much noise dominates a tensor.
    """
    gradients = {
        verdict.id: verdict
        for verdict in verdicts
        if verdict.id.kind is Kind.MAIN_GRAD and verdict.status is Status.PASSED
    }
    return tuple(
        _excused(verdict, gradients, reference, policy)
        if _is_candidate(verdict)
        else verdict
        for verdict in verdicts
    )


def _is_candidate(verdict: TensorVerdict) -> bool:
    return (
        verdict.id.kind is Kind.UPDATED_PARAM
        and verdict.status is Status.FAILED
        and verdict.cause is Cause.ERROR
        and verdict.tolerance is not None
        and verdict.tolerance.measured
    )


def _excused(
    verdict: TensorVerdict,
    gradients: dict[TensorId, TensorVerdict],
    reference: TraceSource,
    policy: TolerancePolicy,
) -> TensorVerdict:
    assert verdict.result is not None and verdict.tolerance is not None
    norm, num_turned = 0.0, 0
    for step in range(verdict.id.step + 1):
        updated = replace(verdict.id, step=step)
        gradient = gradients.get(replace(updated, kind=Kind.MAIN_GRAD))
        if gradient is not None and gradient.result is not None:
            limit = gradient.result.stats.max_abs_diff
            num, of_step = _turned(updated, gradient.id, limit, reference)
            num_turned = max(num_turned, num)
            norm += of_step
    stats, tolerance = verdict.result.stats, verdict.tolerance
    if not norm or stats.difference_norm > norm + tolerance.difference_norm:
        return verdict
    share = norm / stats.reference_norm if stats.reference_norm else math.inf
    tolerance = replace(
        tolerance,
        difference_norm=norm + tolerance.difference_norm,
        derivation=f"{tolerance.derivation}, and {norm:.3g} for updates of either "
        f"sign: {num_turned} of {stats.count} elements of the gradient are no larger "
        "than what the runs differ by",
        noise_share=share,
        noise_dominated=share > policy.dominated_share,
    )
    return replace(
        verdict,
        status=Status.PASSED,
        cause=None,
        reason="",
        tolerance=tolerance,
        margin=stats.difference_norm / tolerance.difference_norm,
    )


def _turned(
    updated: TensorId, gradient: TensorId, limit: float, reference: TraceSource
) -> tuple[int, float]:
    """How many updates of a step may have turned, and what that changes.

    Nothing is known where the reference holds a parameter and its gradient in other
    parts, or the step before is not there.

    Args:
        updated: The parameter after the step.
        gradient: Its gradient in that step.
        limit: Largest size of an element whose sign is not known.
        reference: Holds them all.

    Returns:
        Number of elements, and the Frobenius norm of twice their updates.
    """
    info = reference.info
    records = (
        info.tensors.get(gradient),
        parameter_before(updated, info),
        info.tensors.get(updated),
    )
    num_turned, square = 0, 0.0
    for parts in _same_parts(records):
        gradients, before, after = (
            reference.load(part).astype(np.float64) / part.scale for part in parts
        )
        may_turn = np.abs(gradients) <= limit
        num_turned += int(may_turn.sum())
        square += float(np.square(2 * (after - before)[may_turn]).sum())
    return num_turned, math.sqrt(square)


def _same_parts(
    records: Sequence[TensorRecord | None],
) -> list[tuple[ShardRecord, ...]]:
    """What a rank holds of each tensor, each part of the tensors once."""
    if any(record is None for record in records):
        return []
    by_layout = [
        {shard.layout.blocks: shard for shard in record.shards}
        for record in records
        if record is not None
    ]
    if any(of_one.keys() != by_layout[0].keys() for of_one in by_layout):
        return []
    return [tuple(of_one[key] for of_one in by_layout) for key in by_layout[0]]
