"""A norm with another epsilon."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def norm_epsilon(findings: Findings) -> Diagnosis | None:
    """Names both epsilons, where they explain both outputs."""
    found = findings.evidence.place.epsilon
    if found is None:
        return None
    article = "an" if found.norm[0] in "AEIOR" else "a"
    return Diagnosis(
        code="norm_epsilon",
        sentence=f"{found.id.module} is {article} {found.norm} with an epsilon of "
        f"{found.candidate:.3g} in the candidate and of {found.reference:.3g} in the "
        f"reference, which explains both outputs ({found.id}): give both the same; "
        "frameworks have other defaults",
        evidence={"reference": found.reference, "candidate": found.candidate},
        tensor_ids=(str(found.id),),
    )
