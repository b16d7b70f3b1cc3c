"""A first divergence whose error lies in a part of the tensor."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings


def confined_error(findings: Findings) -> Diagnosis | None:
    """Says where it lies, as all else of the tensor was checked to agree."""
    found = findings.evidence.place.confined
    if found is None or findings.evidence.place.rows or findings.evidence.place.bias:
        return None  # or more is known
    indices = "index" if len(found.part.indices) == 1 else "indices"
    what = "a head, an expert, a row or a rank"
    if found.id.kind is Kind.INPUT and any(
        verdict.id == found.id and verdict.setup for verdict in findings.failed
    ):
        what = "padding, or a sample that one run has otherwise"
    return Diagnosis(
        code="confined_error",
        sentence=f"the error of {found.id} lies at {indices} {found.part} (of length "
        f"{found.length}), and everything else of it agrees: look at what these "
        f"indices have of their own, such as {what}",
        evidence={"part": str(found.part)},
        tensor_ids=(str(found.id),),
    )
