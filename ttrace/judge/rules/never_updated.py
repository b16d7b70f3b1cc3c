"""Parameters that a step left as they were, to the bit."""

from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.rules.no_gradient import has_gradients, without_gradient
from ttrace.judge.rules.several_updates import several_updates
from ttrace.judge.verdict import Cause


def never_updated(findings: Findings) -> Diagnosis | None:
    """Says how many parameters a step did not change, and did in the reference.

    Those that had no gradient are another rule's. The optimizer is only blamed where a
    gradient was seen.
    """
    if several_updates(findings) is not None:
        return None  # the first of several may change nothing, and the last all
    explained = {verdict.id for verdict in without_gradient(findings)}
    lost = [
        verdict
        for verdict in findings.failed
        if verdict.cause is Cause.LOST_UPDATE and verdict.id not in explained
    ]
    if not lost:
        return None
    causes = (
        "the optimizer does not hold these parameters, or what it computes is not "
        "written back to them"
    )
    if not all(has_gradients(v.id.step, findings.candidate) for v in lost):
        causes += ", or no gradient reaches them (record main_grad to tell)"
    return Diagnosis(
        code="never_updated",
        sentence=f"{tensors(len(lost))} did not change in a step that changed the "
        f"reference's: {causes}",
        evidence={"num_tensors": len(lost)},
        tensor_ids=ids_of(lost),
    )
