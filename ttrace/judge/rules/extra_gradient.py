"""Parameters that are trained in the candidate only."""

from ttrace.judge.absences.extra_gradients import extra_gradients
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of


def extra_gradient(findings: Findings) -> Diagnosis | None:
    """Says how many parameters have a gradient in the candidate alone."""
    extra = extra_gradients(findings.verdicts)
    if not extra:
        return None
    names = {(verdict.id.module, verdict.id.slot) for verdict in extra}
    num = len(names)
    have, are = ("s have", "they are") if num > 1 else (" has", "it is")
    first = extra[0].id
    why = f"{are} frozen there, or not used"
    if names <= findings.evidence.runs.frozen_in_reference:
        why = (
            f"{'their' if num > 1 else 'its'} requires_grad is False there as the "
            "trace begins"
        )
    return Diagnosis(
        code="extra_gradient",
        sentence=f"{num} parameter{have} a gradient in the candidate and none in the "
        f"reference, first {first.module}.{first.slot}: {why}. Freeze the same "
        "parameters in both runs "
        + findings.words(
            "(requires_grad=False) before the optimizer is made",
            "(jax.lax.stop_gradient, or leave them out of what is differentiated)",
        ),
        evidence={"num_parameters": num},
        tensor_ids=ids_of(extra),
    )
