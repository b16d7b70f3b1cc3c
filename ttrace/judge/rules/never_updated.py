"""Parameters that a step left as they were, to the bit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.rules.no_gradient import without_gradient
from ttrace.judge.rules.several_updates import several_updates
from ttrace.judge.verdicts.verdict import Cause, TensorVerdict

_ADAM = (".exp_avg", ".mu")
"""Names of states of optimizers whose first steps are as long as the learning rate."""

_MOMENTUM = ".momentum_buffer"

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
    small, others = [], []
    by_id = {verdict.id: verdict for verdict in findings.verdicts}
    for verdict in lost:
        step = verdict.id.step
        if _has_no_rate(findings, step):
            without_rate.setdefault(step, []).append(verdict)
        elif _is_below_resolution(verdict, by_id):
            small.append(verdict)
        else:
            others.append(verdict)
    parts = [_of_rate(findings, of_step) for of_step in without_rate.values()]
    if others:
        parts.append(_of_optimizer(findings, others))
    if small and not others and len(small) < _num_wrong(findings, small[0].id.step):
        lost = [verdict for verdict in lost if verdict not in small]
    elif small:
        parts.append(
            f"{_unchanged(small)}: what the candidate's optimizer is given of them, "
            "times its learning rate, is below the resolution of their dtype. What "
            "changes them in the reference is something else, such as weight decay"
        )
    if not parts:
        return None  # what is wrong shows in other parameters, too
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


def _num_wrong(findings: Findings, step: int) -> int:
    """Updated parameters that are wrong in a step."""
    return sum(
        verdict.id.step == step and verdict.id.kind is Kind.UPDATED_PARAM
        for verdict in findings.failed
    )


def _is_below_resolution(
    updated: TensorVerdict, by_id: Mapping[TensorId, TensorVerdict]
) -> bool:
    """Whether a step of the learning rate times the gradient would not show.

    Not of optimizers whose steps are as long as the learning rate itself.
    """
    id_, slot = updated.id, updated.id.slot or ""
    of_state = replace(id_, kind=Kind.OPTIMIZER_STATE)
    if any(replace(of_state, slot=f"{slot}{name}") in by_id for name in _ADAM):
        return False

    def largest(tensor_id: TensorId) -> float | None:
        verdict = by_id.get(tensor_id)
        result = None if verdict is None else verdict.result
        return None if result is None else result.stats.max_abs_candidate

    given = (
        replace(of_state, slot=f"{slot}{_MOMENTUM}"),
        replace(id_, kind=Kind.CLIPPED_GRAD),
        replace(id_, kind=Kind.MAIN_GRAD),
    )
    gradient = next((v for each in given if (v := largest(each)) is not None), None)
    value = largest(id_)
    rates = [
        rate
        for other in by_id
        if other.kind is Kind.LEARNING_RATE
        and other.step == id_.step
        and (rate := largest(other)) is not None
    ]
    dtype = updated.result and updated.result.plan.match.candidate.shards[0].dtype
    epsilon = dtype_named(dtype).epsilon if dtype else None
    if gradient is None or value is None or epsilon is None or not rates:
        return False
    return 0 < min(rates) and max(rates) * gradient <= epsilon * value


def _of_optimizer(findings: Findings, lost: Sequence[TensorVerdict]) -> str:
    steps = {verdict.id.step for verdict in lost}
    idle = [
        group
        for step, group in findings.evidence.optimizer.idle_groups
        if step in steps
    ]
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
