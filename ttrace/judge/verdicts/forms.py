"""What to say of tensors that were compared in one form (``compare.second_look``)."""

import math
from dataclasses import replace

from ttrace.compare.broadcast import broadcast_shape
from ttrace.compare.execute import TensorResult
from ttrace.ir.kinds import GRADIENT_OF
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.judge.tolerances.tolerance import Estimator, NoiseEstimate, Tolerance
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

MASK_TOLERANCE = Tolerance(
    difference_norm=0.0,
    estimator=Estimator.EXACT,
    derivation="masks must keep the same",
)

_VALUE_OF = {gradient: kind for kind, gradient in GRADIENT_OF.items()}


def num_elements_of(result: TensorResult) -> int:
    """Number of elements that there are to compare."""
    return math.prod(result.broadcast_shape or result.plan.match.reference.global_shape)


def shapes_sentence(result: TensorResult) -> str:
    """That the two runs recorded other shapes."""
    match = result.plan.match
    sentence = (
        f"logical shapes differ: {list(match.reference.global_shape)} in the "
        f"reference, {list(match.candidate.global_shape)} in the candidate"
    )
    if result.broadcast_shape is not None:
        sentence += ", and values differ where dims of length 1 are repeated"
    return sentence


def form_note(result: TensorResult) -> str:
    """In which form a tensor was compared that passes; empty for the plain one."""
    notes = []
    if result.broadcast_shape is not None:
        match = result.plan.match
        notes.append(
            f"{list(match.reference.global_shape)} in the reference, "
            f"{list(match.candidate.global_shape)} in the candidate: all values agree "
            "where dims of length 1 are repeated"
        )
    if result.mask_notations is not None:
        notes.append(_masks(result))
    return "; ".join(notes)


def mask_failure(result: TensorResult) -> tuple[Cause, str] | None:
    """Why two masks in two notations are not the same; None if they are."""
    stats, at = result.stats, result.max_abs_diff_at
    if not stats.num_unequal:
        return None
    assert at is not None
    return Cause.MASKS, (
        f"{_masks(result)}: {stats.num_unequal} of {stats.count} places are kept in "
        f"one run and dropped in the other, the first one at {list(at)}"
    )


def noise_of_broadcast(
    result: TensorResult, noise: NoiseEstimate | None
) -> NoiseEstimate | None:
    """The noise that was measured of a tensor, of as many copies as are compared."""
    if noise is None or result.broadcast_shape is None:
        return None
    measured = math.prod(result.plan.match.reference.global_shape)
    growth = math.sqrt(num_elements_of(result) / measured)
    return NoiseEstimate(
        draws=tuple(draw * growth for draw in noise.draws),
        reference_norm=noise.reference_norm * growth,
    )


def without_sums(
    verdict: TensorVerdict, result: TensorResult, broadcast: set[TensorId]
) -> TensorVerdict:
    """Skips the gradient of a tensor that agrees as broadcast.

    Args:
        verdict: On a tensor.
        result: What it was judged by.
        broadcast: What agrees as broadcast.
    """
    id_ = verdict.id
    kind = _VALUE_OF.get(id_.kind)
    if (
        verdict.cause is not Cause.SHAPE
        or kind is None
        or replace(id_, kind=kind, pass_=Pass.FORWARD) not in broadcast
        or broadcast_shape(result.plan.match) is None
    ):
        return verdict
    return TensorVerdict(
        id=id_,
        status=Status.SKIPPED,
        reason=f"the {kind} agrees where dims of length 1 are repeated; the gradient "
        "of what is repeated is a sum, and is not compared",
    )


def _masks(result: TensorResult) -> str:
    assert result.mask_notations is not None
    of_reference, of_candidate = result.mask_notations
    return (
        f"compared as masks: {of_reference} in the reference, {of_candidate} in the "
        "candidate"
    )
