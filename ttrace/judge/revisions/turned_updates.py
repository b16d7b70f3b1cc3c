"""Updates that turn with the sign of a gradient's smallest elements.

Adam's first steps move every element of a parameter by about the learning rate,
whatever the size of its gradient. An element of the gradient that is no larger than
what correct runs differ by may have either sign, and its update too; of one that is
some times larger, near Adam's epsilon, the update follows its relative difference.
There are few of them, so that noise runs often meet none, and measure next to no noise
of the parameter.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttrace.compare.parts import Part, mask_of
from ttrace.ir.averages import averaged_parameter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.revisions.excuse import excused
from ttrace.judge.tolerances.tolerance import TolerancePolicy
from ttrace.judge.verdicts.updates import parameter_before
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

_SMALL = 64.0
"""Times what the runs differ by, up to which an element of a gradient is small."""


def is_made_of_updates(id_: TensorId) -> bool:
    """Whether it is a parameter after a step, or an average of such."""
    return id_.kind is Kind.UPDATED_PARAM or averaged_parameter(id_) is not None


class TurnedUpdates:
    """Tells how far a parameter may be off as updates have turned.

    An update may have turned where the gradient agrees, is not zero, and is no larger
    than the largest difference of its elements: only there can its sign be another one.
    What an element may be off by is twice its own update in the reference, so that of
    an optimizer whose updates grow with the gradient next to nothing may turn. Of one
    whose gradient is up to 64 times that difference it is the update times the
    difference over the gradient: what an update that is proportional to the gradient
    changes by; one that saturates, as Adam's, changes by less.

    Args:
        verdicts: One per tensor.
        reference: The trusted run; gradients and parameters are read when asked for.
    """

    def __init__(self, verdicts: Sequence[TensorVerdict], reference: TraceSource):
        self._reference = reference
        self._gradients = {
            verdict.id: verdict
            for verdict in verdicts
            if verdict.id.kind is Kind.MAIN_GRAD and verdict.status is Status.PASSED
        }

    def of(self, updated: TensorId, part: Part | None = None) -> tuple[int, float]:
        """What may have turned of a parameter up to the end of a step.

        Args:
            updated: The parameter after the step, or its average over steps, which is
                no further off than the parameters may be.
            part: Only these of its elements; None for all.

        Returns:
            Number of elements in the step with the most of them, and the Frobenius norm
            of the difference, summed up over all steps.
        """
        updated = averaged_parameter(updated) or updated
        norm, num_turned = 0.0, 0
        for step in range(updated.step + 1):
            of_step = replace(updated, step=step)
            gradient = self._gradients.get(replace(of_step, kind=Kind.MAIN_GRAD))
            if gradient is not None and gradient.result is not None:
                limit = gradient.result.stats.max_abs_diff
                num, distance = _turned(
                    of_step, gradient.id, limit, self._reference, part
                )
                num_turned = max(num_turned, num)
                norm += distance
        return num_turned, norm


def excuse_turned_updates(
    verdicts: Sequence[TensorVerdict],
    turned: TurnedUpdates,
    *,
    policy: TolerancePolicy,
) -> tuple[TensorVerdict, ...]:
    """Lets pass updated parameters, and averages, that are off by turned updates.

    Args:
        verdicts: One per tensor.
        turned: Asked about what failed by a measured tolerance.
        policy: Says how much noise dominates a tensor.
    """
    return tuple(
        _excused(verdict, turned, policy) if _is_candidate(verdict) else verdict
        for verdict in verdicts
    )


def _is_candidate(verdict: TensorVerdict) -> bool:
    return (
        is_made_of_updates(verdict.id)
        and verdict.status is Status.FAILED
        and verdict.cause is Cause.ERROR
        and verdict.tolerance is not None
        and verdict.tolerance.measured
    )


def _excused(
    verdict: TensorVerdict, turned: TurnedUpdates, policy: TolerancePolicy
) -> TensorVerdict:
    assert verdict.result is not None
    num_turned, norm = turned.of(verdict.id)
    what = (
        f"updates of small gradients: {num_turned} of {verdict.result.stats.count} "
        f"elements of the gradient are less than {_SMALL:g} times what the runs differ "
        "by"
    )
    return excused(verdict, norm, what, dominated_share=policy.dominated_share)


def _turned(
    updated: TensorId,
    gradient: TensorId,
    limit: float,
    reference: TraceSource,
    part: Part | None,
) -> tuple[int, float]:
    """How many updates of a step may have turned, and what that changes.

    Nothing is known where the reference holds a parameter and its gradient in other
    shards, or the step before is not there.

    Args:
        updated: The parameter after the step.
        gradient: Its gradient in that step.
        limit: Largest size of an element whose sign is not known.
        reference: Holds them all.
        part: The elements that count; None for all.

    Returns:
        Number of elements, and the Frobenius norm of what their updates change by.
    """
    info = reference.info
    records = (
        info.tensors.get(gradient),
        parameter_before(updated, info),
        info.tensors.get(updated),
    )
    num_turned, square = 0, 0.0
    for shards in _same_shards(records):
        gradients, before, after = (
            reference.load(shard).astype(np.float64) / shard.scale for shard in shards
        )
        # A gradient of zero moves nothing; what weight decay does has no sign to turn.
        sizes = np.abs(gradients)
        may_turn = (sizes <= _SMALL * limit) & (sizes > 0)
        if part is not None:
            may_turn &= mask_of(shards[0].layout, part)
        num_turned += int(may_turn.sum())
        sizes = sizes[may_turn]
        shares = np.where(sizes <= limit, 2.0, limit / sizes)
        square += float(np.square(shares * (after - before)[may_turn]).sum())
    return num_turned, math.sqrt(square)


def _same_shards(
    records: Sequence[TensorRecord | None],
) -> list[tuple[ShardRecord, ...]]:
    """What a rank holds of each tensor, each shard of the tensors once."""
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
