"""Updates that the dtype of the parameters is too coarse for."""

from ttrace.ir.tensor_id import TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.rules.no_gradient import without_gradient
from ttrace.judge.verdicts.verdict import Cause


def rounded_update(findings: Findings) -> Diagnosis | None:
    """Says how many updates of the candidate were rounded away, and to what dtype."""
    explained = {verdict.id for verdict in without_gradient(findings)}
    lost = [
        verdict
        for verdict in findings.failed
        if verdict.cause is Cause.ROUNDED_UPDATE and verdict.id not in explained
    ]
    if not lost:
        return None
    dtypes = sorted({_dtype(findings, verdict.id) for verdict in lost})
    their = "their" if len(lost) > 1 else "its"
    return Diagnosis(
        code="rounded_update",
        sentence=f"{tensors(len(lost))} did not change in a step that changed the "
        f"reference's: {their} update is below the resolution of {'+'.join(dtypes)} "
        f"beside {their} values, and is rounded away. Keep parameters, or a master "
        "copy of them, in float32, or round stochastically",
        evidence={"num_tensors": len(lost), "dtypes": ",".join(dtypes)},
        tensor_ids=ids_of(lost),
    )


def _dtype(findings: Findings, tensor_id: TensorId) -> str:
    return findings.candidate.tensors[tensor_id].shards[0].dtype
