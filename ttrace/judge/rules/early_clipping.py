"""Gradients that are clipped before the last micro-batch has added to them."""

from ttrace.ir.kinds import GRADIENTS, KINDS, Kind, Phase
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_OF_STEP = frozenset({Kind.MAIN_GRAD, Kind.GRAD_NORM, Kind.CLIPPED_GRAD})


def early_clipping(findings: Findings) -> Diagnosis | None:
    """Says that one run clips in the midst of a step, where its optimizer goes wrong.

    Told where the first failure of a step is what its optimizer is given, or makes.
    """
    found = findings.evidence.optimizer.early_clipping
    if found is None or not findings.failed:
        return None
    first = findings.failed[0].id
    if KINDS[first.kind].phase is not Phase.OPTIMIZER:
        return None
    failed = [
        verdict
        for verdict in findings.failed
        if verdict.id.kind in _OF_STEP and verdict.id.step == first.step
    ]
    other = Side.CANDIDATE if found.side is Side.REFERENCE else Side.REFERENCE
    beside = f"of the {other} no clipping is known"
    if found.other is not None:
        beside = f"the {other} clips them {found.other}"
    return Diagnosis(
        code="early_clipping",
        sentence=f"the {found.side} clips its gradients {found.early}, as "
        f"where a later micro-batch adds to them, and {beside}: clip once, behind the "
        f"last backward of a step and before optimizer.step(){_of_main_grad(failed)}",
        evidence={"step": first.step, "clips": str(found.side)},
        tensor_ids=ids_of(failed or findings.failed[:1]),
    )


def _of_main_grad(failed: list[TensorVerdict]) -> str:
    if not any(verdict.id.kind in GRADIENTS for verdict in failed):
        return ""
    return ". What it has of main_grad is what its first clip was given"
