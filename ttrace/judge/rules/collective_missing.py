"""Ranks that must agree and do not, and that no collective of the call reaches."""

from ttrace.judge.collectives_missing import (
    find_missing_collective,
    missing_collective,
)
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.rules.collective_group import collective_group
from ttrace.judge.rules.replicas_differ import replicas_differ
from ttrace.judge.verdicts.replicas import differing_replicas


def collective_missing(findings: Findings) -> Diagnosis | None:
    """Says so of the first tensor, where the ranks' difference has no other cause."""
    if findings.evidence.runs.misordered or collective_group(findings) is not None:
        return None
    if replicas_differ(findings) is None:
        return None
    for verdict in findings.failed:
        if verdict.result is None or verdict.tolerance is None:
            continue
        record = verdict.result.plan.match.candidate
        bad = differing_replicas(
            verdict.result.candidate_replicas,
            verdict.tolerance,
            exact=record.shards[0].exact_replicas,
        )
        if bad:
            found = find_missing_collective(record, bad, findings.candidate)
            return missing_collective(found, findings.candidate) if found else None
    return None
