"""A square weight that is multiplied by its wrong side."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def transposed_weight(findings: Findings) -> Diagnosis | None:
    """Names the weight, where its transpose explains the output."""
    found = findings.evidence.place.transposed
    if found is None:
        return None
    return Diagnosis(
        code="transposed_weight",
        sentence=f"{found.id.module} multiplies by the transpose of its "
        f"{found.weight.slot}, which explains its output ({found.id}). The weight is "
        "square, so that no shape tells: a weight of torch is [out, in], a kernel of "
        "flax [in, out]",
        evidence={"weight": str(found.weight)},
        tensor_ids=(str(found.id), str(found.weight)),
    )
