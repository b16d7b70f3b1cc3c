"""Parameters that a step left as they were, to the bit."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.rules.no_gradient import without_gradient
from ttrace.judge.rules.several_updates import several_updates
from ttrace.judge.verdict import Cause, TensorVerdict

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD, Kind.CLIPPED_GRAD})


def never_updated(findings: Findings) -> Diagnosis | None:
    """Says how many parameters a step did not change, and did in the reference.

    Those that had no gradient are another rule's. The optimizer is only blamed where a
    gradient was seen, and no learning rate is zero. Nothing is said of steps with NaN
    or infinities in a gradient of the candidate, which may have been skipped for them.
    """
    if several_updates(findings) is not None:
        return None  # the first of several may change nothing, and the last all
    explained = {verdict.id for verdict in without_gradient(findings)}
    broken = _steps_with_broken_gradients(findings)
    lost = [
        verdict
        for verdict in findings.failed
        if verdict.cause is Cause.LOST_UPDATE
        and verdict.id not in explained
        and verdict.id.step not in broken
    ]
    if not lost:
        return None
    without_rate: dict[int, list[TensorVerdict]] = {}
    others = []
    for verdict in lost:
        step = verdict.id.step
        if _has_no_rate(findings, step):
            without_rate.setdefault(step, []).append(verdict)
        else:
            others.append(verdict)
    parts = [_of_rate(findings, of_step) for of_step in without_rate.values()]
    if others:
        parts.append(_of_optimizer(findings, others))
    return Diagnosis(
        code="never_updated",
        sentence="; ".join(parts),
        evidence={"num_tensors": len(lost)},
        tensor_ids=ids_of(lost),
    )


def _steps_with_broken_gradients(findings: Findings) -> set[int]:
    """Steps in which a gradient of a parameter is not finite in the candidate."""
    return {
        verdict.id.step
        for verdict in findings.verdicts
        if verdict.id.kind in _OF_PARAMETERS
        and verdict.result is not None
        and verdict.result.stats.num_nonfinite_candidate
    }


def _of_rate(findings: Findings, lost: Sequence[TensorVerdict]) -> str:
    """That the learning rate of a step is zero, in the candidate alone."""
    step = lost[0].id.step
    rates = sorted({reference for _, reference in _zero_rates(findings, step)})
    theirs = " or ".join(f"{rate:g}" for rate in rates)
    return (
        f"{_unchanged(lost)}: the learning rate of step {step} is 0, and {theirs} in "
        "the reference. Give both runs the same schedule: the step that a warm-up "
        "starts from, and "
        + findings.words("where scheduler.step() is called", "what it counts")
    )


def _of_optimizer(findings: Findings, lost: Sequence[TensorVerdict]) -> str:
    steps = {verdict.id.step for verdict in lost}
    idle = [group for step, group in findings.evidence.idle_groups if step in steps]
    causes = (
        "the optimizer does not hold these parameters, or what it computes is not "
        "written back to them"
    )
    if idle:
        names = " and ".join(dict.fromkeys(idle))
        return (
            f"{_unchanged(lost)}: the optimizer of the candidate has {names}, which "
            "the reference's has not, with a learning rate of 0: look at which "
            f"parameters are in it; or {causes}"
        )
    if not all(findings.own.has_any_of(verdict.id.step) for verdict in lost):
        if not findings.own.wants_main_grad:
            causes += ", or no gradient reaches them (record main_grad to tell)"
        elif any(findings.own.has_backward(verdict.id.step) for verdict in lost):
            causes += (
                ", or they are given no gradient: a backward ran, and no main_grad "
                "was recorded, which was asked for"
            )
        else:
            causes += ", or no gradient reaches them: none was recorded in that step"
    for step in dict.fromkeys(verdict.id.step for verdict in lost):
        zero = _zero_rates(findings, step)
        if zero:
            names = ", ".join(name for name, _ in zero)
            causes += f", or they belong to {names}, whose learning rate is 0 in it"
            break
    return f"{_unchanged(lost)}: {causes}"


def _unchanged(lost: Sequence[TensorVerdict]) -> str:
    return f"{tensors(len(lost))} did not change in a step that changed the reference's"


def _has_no_rate(findings: Findings, step: int) -> bool:
    """Whether all learning rates of a step are zero in the candidate alone."""
    zero = _zero_rates(findings, step)
    return bool(zero) and len(zero) == sum(
        verdict.id.kind is Kind.LEARNING_RATE and verdict.id.step == step
        for verdict in findings.verdicts
    )


def _zero_rates(findings: Findings, step: int) -> list[tuple[str, float]]:
    """Groups whose learning rate is zero in the candidate alone, with the reference's.

    Of one step.
    """
    found = []
    for verdict in findings.failed:
        if verdict.id.kind is not Kind.LEARNING_RATE or verdict.id.step != step:
            continue
        if verdict.result is None:
            continue
        stats = verdict.result.stats
        if stats.max_abs_candidate or stats.num_nonfinite_candidate:
            continue
        rate = stats.max_abs_reference
        found.append((verdict.id.slot or "learning_rate", rate))
    return found
