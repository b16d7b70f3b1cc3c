"""Parameters that scripts write to after the optimizer's step, and what it left.

Clamping, normalising and averaging hand an error of the update on, and hide none that
was there before: what they make of it is judged beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.writers import writers
from ttrace.judge.revisions.excuse import excused
from ttrace.judge.tolerances.tolerance import TolerancePolicy
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_AMPLIFIED = 2.0
"""Times the relative error of a parameter that what is made of it may have: rows of
several lengths that are brought to one have their errors weighted otherwise."""


def judge_written(
    verdicts: Sequence[TensorVerdict], policy: TolerancePolicy
) -> tuple[TensorVerdict, ...]:
    """Judges what was written, and what was left for it, by each other.

    An error that is the one that an update passed with is no other one. An update that
    only one run writes over, and that the other run's optimizer makes at once, is that
    of no training: what both end the step with is compared.

    Args:
        verdicts: On all tensors.
        policy: Says how much noise dominates a tensor.
    """
    by_id = {
        verdict.id: verdict
        for verdict in verdicts
        if verdict.id.kind in (Kind.UPDATED_PARAM, Kind.WRITTEN_PARAM)
    }
    return tuple(
        _revised(verdict, by_id, policy) if failed_by_values(verdict) else verdict
        for verdict in verdicts
    )


def _revised(
    verdict: TensorVerdict,
    by_id: Mapping[TensorId, TensorVerdict],
    policy: TolerancePolicy,
) -> TensorVerdict:
    kind = verdict.id.kind
    if kind is Kind.WRITTEN_PARAM:
        updated = by_id.get(replace(verdict.id, kind=Kind.UPDATED_PARAM))
        if updated is None or updated.status is not Status.PASSED:
            return verdict
        assert verdict.result is not None and updated.result is not None
        norm, stats = verdict.result.stats.reference_norm, updated.result.stats
        if not stats.reference_norm:
            return verdict
        return excused(
            verdict,
            _AMPLIFIED * norm * stats.difference_norm / stats.reference_norm,
            "the error of the update that it is made of",
            dominated_share=policy.dominated_share,
        )
    if kind is Kind.UPDATED_PARAM:
        written = by_id.get(replace(verdict.id, kind=Kind.WRITTEN_PARAM, call=0))
        if written is None or written.status is not Status.PASSED:
            return verdict
        found = writers(written)
        if len(found) != 1:
            return verdict
        (side,) = found
        other = next(each for each in Side if each is not side)
        return replace(
            verdict,
            status=Status.SKIPPED,
            cause=None,
            margin=None,
            tolerance=None,
            result=None,
            failed_part=None,
            failed_parts=(),
            reason=f"{side}: its script writes to the parameter after the optimizer's "
            f"step; what the {other} ends the step with is the same, and was compared "
            "(written_param)",
        )
    return verdict
