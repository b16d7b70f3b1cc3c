"""An attention that is another function of what agrees."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def attention_variant(findings: Findings) -> Diagnosis | None:
    """Says in which trait the attentions of both runs differ."""
    found = findings.evidence.place.attention
    if found is None:
        return None
    of = "queries, keys and values that agree"
    what = "is the attention of"
    if found.is_rotary and found.id.kind.value == "input" and found.reference:
        what = "is made of"
    return Diagnosis(
        code="attention_variant",
        sentence=f"{found.id.kind} {found.id.slot or 0} of {found.id.module} {what} "
        f"{of} in both runs, and not the same one: in the reference "
        f"{found.reference}; in the candidate {found.candidate} ({found.id}). Give "
        "both runs the same",
        evidence={"reference": found.reference, "candidate": found.candidate},
        tensor_ids=(str(found.id),),
    )
