"""Positions that begin anew at other places than in the reference."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def position_restarts(findings: Findings) -> Diagnosis | None:
    """Says how often they begin anew in both runs."""
    found = findings.evidence.place.positions
    if found is None:
        return None
    look = "in a sample of several documents they begin at 0 in each, and only there"
    if found.candidate > found.reference:
        look += (
            "; where ranks have parts of a sample, as under context parallelism, they "
            "go on from the part before"
        )
    return Diagnosis(
        code="position_restarts",
        sentence=f"{found.id.kind} {found.id.slot or 0} of {found.id.module} counts up "
        f"from 0 along dim {found.dim} in both runs, and begins anew at other places: "
        f"{found.reference} times after the first position of a sample in the "
        f"reference, {found.candidate} times in the candidate, {found.common} of these "
        f"at the same place ({found.id}). Look at what positions are made of: "
        f"{look}",
        evidence={
            "reference": found.reference,
            "candidate": found.candidate,
            "common": found.common,
        },
        tensor_ids=(str(found.id),),
    )
