"""Gradients that are clipped with a loss scale still in them."""

from ttrace.ir.kinds import Kind
from ttrace.ir.step_notes import SCALED_CLIPS, scales_of_steps
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status

_BEFORE = frozenset({Kind.MAIN_GRAD, Kind.GRAD_NORM})


def scaled_clipping(findings: Findings) -> Diagnosis | None:
    """Says so of the first step whose clipped gradients fail, if all before it agree.

    The candidate says itself that it clips them so. Where its limit has the scale in
    it, too, they agree, and there is nothing to say.
    """
    clipped = [v for v in findings.failed if v.id.kind is Kind.CLIPPED_GRAD]
    if not clipped:
        return None
    step = clipped[0].id.step
    notes = scales_of_steps(findings.candidate.ranks[0].settings, SCALED_CLIPS)
    scales = [scale for scale, steps in notes if step in steps]
    is_wrong_before = any(
        verdict.id.kind in _BEFORE and verdict.id.step == step
        for verdict in findings.verdicts
        if verdict.status is Status.FAILED
    )
    if not scales or is_wrong_before:
        return None
    scale = scales[0]
    of_step = [verdict for verdict in clipped if verdict.id.step == step]
    return Diagnosis(
        code="scaled_clipping",
        sentence=f"step {step} of the candidate clips its gradients while they are "
        f"still scaled by {scale}, so that the limit counts as 1/{scale} of itself: "
        "call scaler.unscale_(optimizer) between the last backward and the clipping",
        evidence={"step": step, "loss_scale": float(scale)},
        tensor_ids=ids_of(of_step),
    )
