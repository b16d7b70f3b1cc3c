"""Gradients that were not set to zero between two steps."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors


def accumulated_gradient(findings: Findings) -> Diagnosis | None:
    """Says that gradients hold those of the step before, where that was checked."""
    found = set(findings.evidence.optimizer.accumulated)
    if not found:
        return None
    verdicts = [verdict for verdict in findings.failed if verdict.id in found]
    step = verdicts[0].id.step
    return Diagnosis(
        code="accumulated_gradient",
        sentence=f"{tensors(len(verdicts))} of step {step}, all that were examined, "
        f"are the reference's gradient plus the candidate's own of step {step - 1}"
        f"{_as_clipped(findings)}: "
        "gradients are not set to zero between the steps "
        + findings.words("(optimizer.zero_grad())", "(their sum is carried on)"),
        evidence={"num_tensors": len(verdicts), "step": step},
        tensor_ids=ids_of(verdicts),
    )


def _as_clipped(findings: Findings) -> str:
    is_clipped = findings.evidence.optimizer.accumulated_kind is Kind.CLIPPED_GRAD
    return ", as it was clipped" if is_clipped else ""
