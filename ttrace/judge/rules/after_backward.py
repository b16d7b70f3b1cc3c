"""Gradients that go wrong between the backward and the optimizer."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.verdicts.verdict import Status


def after_backward(findings: Findings) -> Diagnosis | None:
    """Says that what every micro-batch adds agrees, and what becomes of it does not.

    Told where the gradients of all micro-batches were compared, and the first failure
    is what the optimizer is given of them.
    """
    evidence = findings.evidence.optimizer
    is_known = evidence.accumulated or evidence.unscaled
    if is_known or findings.evidence.runs.one_microbatch or not findings.failed:
        return None  # then more is known
    if findings.failed[0].id.kind is not Kind.MAIN_GRAD:
        return None
    step = findings.failed[0].id.step
    failed = [
        verdict
        for verdict in findings.failed
        if verdict.id.kind is Kind.MAIN_GRAD and verdict.id.step == step
    ]
    added = {(verdict.id.module, verdict.id.slot): False for verdict in failed}
    num_agree = 0
    for verdict in findings.verdicts:
        if verdict.id.kind is not Kind.PARAM_GRAD or verdict.id.step != step:
            continue
        key = (verdict.id.module, verdict.id.slot)
        if key not in added:
            continue
        if verdict.status is not Status.PASSED:
            return None
        added[key] = True
        num_agree += 1
    if not all(added.values()):
        return None
    by_hand = "and at clipping by hand"
    if findings.candidate.ranks[0].framework == "torch":
        by_hand += ", before which trace.main_grads() is to be called"
    return Diagnosis(
        code="after_backward",
        sentence="what the backward of every micro-batch adds to the gradients of "
        f"{tensors(len(failed))} in step {step} agrees ({num_agree} compared), and "
        "what the optimizer is given does not: look between the two, "
        f"{findings.words('at zero_grad(), ', '')}at how micro-batches are summed, at "
        f"reductions, {by_hand}",
        evidence={"num_tensors": len(failed), "step": step, "num_agree": num_agree},
        tensor_ids=ids_of(failed),
    )
