"""An activation function that is another one."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def activation_variant(findings: Findings) -> Diagnosis | None:
    """Names both functions, where they explain both runs."""
    found = findings.evidence.place.activation
    if found is None:
        return None
    source = f"{found.source.kind} {found.source.slot} of {found.source.module}"
    gate = (
        ""
        if found.gated is None
        else f", times {found.gated.kind} {found.gated.slot} of {found.gated.module}"
    )
    return Diagnosis(
        code="activation_variant",
        sentence=f"{found.id.kind} {found.id.slot} of {found.id.module} is "
        f"{found.reference} of {source}{gate} in the reference, and {found.candidate} "
        f"of it in the candidate ({found.id}): take the same function in both; the "
        "defaults of frameworks differ",
        evidence={"reference": found.reference, "candidate": found.candidate},
        tensor_ids=(str(found.id), str(found.source)),
    )
