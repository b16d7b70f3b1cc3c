"""Forwards that are recomputed for backward and give something else."""

from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict


def recomputation(findings: Findings) -> Diagnosis | None:
    """Names the recomputed tensors that differ where those of the forward agree.

    Only if the first tensor that failed is one of them: behind any other bug the
    parameters differ from the second step on, in both passes.
    """
    by_id = {verdict.id: verdict for verdict in findings.verdicts}

    def is_recomputed_otherwise(verdict: TensorVerdict) -> bool:
        if verdict.id.pass_ is not Pass.RECOMPUTE or verdict.cause is Cause.SHAPE:
            return False  # another shape is no other value
        first = by_id.get(replace(verdict.id, pass_=Pass.FORWARD))
        return first is not None and first.status is Status.PASSED

    if not findings.failed or not is_recomputed_otherwise(findings.failed[0]):
        return None
    wrong = [v for v in findings.failed if is_recomputed_otherwise(v)]
    first = wrong[0].id
    what = "is given" if first.kind is Kind.INPUT else "gives"
    return Diagnosis(
        code="recomputation",
        sentence=f"recomputed for backward, {first.module} {what} something else than "
        f"in the forward, which agrees with the reference ({tensors(len(wrong))} in "
        "all). A recomputation must draw the same random numbers "
        + findings.words("(preserve_rng_state of torch.utils.checkpoint) ", "")
        + "and find all that it reads as it was",
        evidence={"module": first.module, "num_tensors": len(wrong)},
        tensor_ids=ids_of(wrong),
    )
