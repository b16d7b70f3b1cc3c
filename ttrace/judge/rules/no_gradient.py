"""Parameters that no gradient reaches in the candidate."""

from ttrace.ir.kinds import Kind
from ttrace.ir.trace import TraceInfo
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.verdict import Cause, TensorVerdict


def no_gradient(findings: Findings) -> Diagnosis | None:
    """Says which lost updates had no gradient to be made of."""
    lost = without_gradient(findings)
    if not lost:
        return None
    are, them = ("are", "them") if len(lost) > 1 else ("is", "it")
    return Diagnosis(
        code="no_gradient",
        sentence=f"{tensors(len(lost))} {are} not updated in the candidate, as no "
        f"gradient was recorded for {them} there, while other parameters have one: "
        "look for a detach(), a no_grad() block, or an output that the loss does not "
        "use",
        evidence={"num_tensors": len(lost)},
        tensor_ids=ids_of(lost),
    )


def without_gradient(findings: Findings) -> list[TensorVerdict]:
    """Lost updates of parameters whose gradient the candidate lacks.

    What was skipped, or left out for all parameters by a filter, says nothing.
    """
    lost = [v for v in findings.failed if v.cause is Cause.LOST_UPDATE]
    if not lost:
        return []
    found = _parameters_with_gradient(findings.candidate)
    steps = {step for step, _, _ in found}
    return [
        verdict
        for verdict in lost
        if verdict.id.step in steps
        and (verdict.id.step, verdict.id.module, verdict.id.slot) not in found
    ]


def _parameters_with_gradient(info: TraceInfo) -> set[tuple[int, str, str | None]]:
    """Step, module and slot of all parameters whose gradient was seen."""
    return {
        (tensor_id.step, tensor_id.module, tensor_id.slot)
        for tensor_id in (*info.tensors, *info.skipped)
        if tensor_id.kind in (Kind.MAIN_GRAD, Kind.PARAM_GRAD)
    }
