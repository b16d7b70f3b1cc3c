"""A first divergence whose error lies in a part of the tensor."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def confined_error(findings: Findings) -> Diagnosis | None:
    """Says where it lies, as all else of the tensor was checked to agree."""
    found = findings.evidence.confined
    if found is None or findings.evidence.rows or findings.evidence.bias:
        return None  # or more is known
    indices = "index" if len(found.part.indices) == 1 else "indices"
    return Diagnosis(
        code="confined_error",
        sentence=f"the error of {found.id} lies at {indices} {found.part} (of length "
        f"{found.length}), and everything else of it agrees: look at what these "
        "indices have of their own, such as a head, an expert, a row or a rank",
        evidence={"part": str(found.part)},
        tensor_ids=(str(found.id),),
    )
