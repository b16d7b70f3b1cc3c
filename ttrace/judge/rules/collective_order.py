"""Ranks of a group that do not run the same collectives."""

from ttrace.judge.collectives import misordered_collectives
from ttrace.judge.diagnosis import Diagnosis, Findings


def collective_order(findings: Findings) -> Diagnosis | None:
    """Says where ranks of the candidate part; needs no reference."""
    found = findings.evidence.runs.misordered
    return misordered_collectives(found, findings.candidate) if found else None
