"""Gradients that only one run is seen to clip, and that differ before it."""

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.verdicts.verdict import Status


def unseen_clipping(findings: Findings) -> Diagnosis | None:
    """Says that clipping by hand may be why what was compared is not alike.

    Told where the gradients of a step are the first failure, and all clipped ones of it
    are in one run. Where they agree before, ``clipping`` says more.
    """
    if not findings.failed or findings.evidence.optimizer.accumulated:
        return None
    first = findings.failed[0].id
    clipped = [
        verdict
        for verdict in findings.verdicts
        if verdict.id.kind is Kind.CLIPPED_GRAD and verdict.id.step == first.step
    ]
    sides = {
        verdict.present if verdict.status is Status.UNMATCHED else None
        for verdict in clipped
    }
    if first.kind is not Kind.MAIN_GRAD or len(sides) != 1 or None in sides:
        return None
    side = clipped[0].present
    other = Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE
    how = "record its gradients before they are clipped"
    if findings.candidate.ranks[0].framework == "torch":
        how = "call trace.main_grads() before that"
    return Diagnosis(
        code="unseen_clipping",
        sentence=f"no clipping was seen in step {first.step} of the {other}, while the "
        f"{side} has {tensors(len(clipped))} of clipped_grad there, and the gradients "
        f"differ before it. If the {other} clips by hand, what is compared as its "
        f"main_grad is clipped already: {how}",
        evidence={"step": first.step, "clips": str(side)},
        tensor_ids=ids_of(clipped),
    )
