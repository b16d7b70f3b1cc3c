"""Parameters that a step left as they were, to the bit."""

from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.rules.no_gradient import without_gradient
from ttrace.judge.verdict import Cause


def never_updated(findings: Findings) -> Diagnosis | None:
    """Says how many parameters a step did not change, and did in the reference.

    Those that had no gradient are another rule's.
    """
    explained = {verdict.id for verdict in without_gradient(findings)}
    lost = [
        verdict
        for verdict in findings.failed
        if verdict.cause is Cause.LOST_UPDATE and verdict.id not in explained
    ]
    if not lost:
        return None
    return Diagnosis(
        code="never_updated",
        sentence=f"{tensors(len(lost))} did not change in a step that changed the "
        "reference's: the optimizer does not hold these parameters, or what it "
        "computes is not written back to them",
        evidence={"num_tensors": len(lost)},
        tensor_ids=ids_of(lost),
    )
