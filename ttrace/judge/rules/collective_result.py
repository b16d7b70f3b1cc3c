"""A collective that gave something else than it is defined to."""

from ttrace.judge.collectives import wrong_results
from ttrace.judge.diagnosis import Diagnosis, Findings


def collective_result(findings: Findings) -> Diagnosis | None:
    """Says what a collective of the candidate gave; needs no reference."""
    found = findings.evidence.runs.wrong_collectives
    return wrong_results(found, findings.candidate) if found else None
