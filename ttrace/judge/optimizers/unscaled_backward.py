"""Gradients that one run divides by a loss scale that its loss never had."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.step_notes import UNSCALED_BACKWARDS, scales_of_steps
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.verdicts.verdict import TensorVerdict

_LIKENESS = 1e-2
"""Relative, of the factors of single tensors."""

_LEAST_COSINE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class UnscaledBackward:
    """A step in which a run says so, and its gradients show it.

    Attributes:
        side: The run.
        step: The step.
        scale: What it divides by, as the run writes it.
        ids: Gradients of that step that are off by this factor.
    """

    side: Side
    step: int
    scale: str
    ids: tuple[TensorId, ...]


def find_unscaled_backward(
    verdicts: Sequence[TensorVerdict], reference: TraceInfo, candidate: TraceInfo
) -> UnscaledBackward | None:
    """The first step whose gradients failed, if either run says it of that step.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    failed = [
        verdict
        for verdict in verdicts
        if verdict.id.kind is Kind.MAIN_GRAD and failed_by_values(verdict)
    ]
    if not failed:
        return None
    step = min(verdict.id.step for verdict in failed)
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    scales = {
        side: [
            scale
            for scale, steps in scales_of_steps(
                info.ranks[0].settings, UNSCALED_BACKWARDS
            )
            if step in steps
        ]
        for side, info in runs.items()
    }
    sides = [side for side in Side if scales[side]]
    if len(sides) != 1:
        return None
    (side,) = sides
    scale = scales[side][0]
    factor = 1 / float(scale) if side is Side.CANDIDATE else float(scale)
    ids = [v.id for v in failed if v.id.step == step and _is_times(v, factor)]
    if not ids:
        return None
    return UnscaledBackward(side=side, step=step, scale=scale, ids=tuple(ids))


def _is_times(verdict: TensorVerdict, factor: float) -> bool:
    """Whether the candidate's tensor is so many times the reference's."""
    assert verdict.result is not None
    stats = verdict.result.stats
    if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
        return False
    if not stats.reference_norm or stats.cosine < _LEAST_COSINE:
        return False
    ratio = stats.candidate_norm / stats.reference_norm
    return math.isclose(ratio, factor, rel_tol=_LIKENESS)
