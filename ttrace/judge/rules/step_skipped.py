"""Only one of the two optimizers took a step."""

from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Cause


def step_skipped(findings: Findings) -> Diagnosis | None:
    """Says which steps one of the optimizers skipped, and the other did not."""
    skips = [v for v in findings.failed if v.cause is Cause.ONE_SIDED_SKIP]
    if not skips:
        return None
    return Diagnosis(
        code="step_skipped",
        sentence=f"{skips[0].reason}; from there on the runs hold other parameters",
        evidence={"steps": ",".join(str(verdict.id.step) for verdict in skips)},
        tensor_ids=ids_of(skips),
    )
