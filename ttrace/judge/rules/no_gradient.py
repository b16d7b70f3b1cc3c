"""Places that no gradient reaches in the candidate."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.remarks import repeats_in
from ttrace.judge.verdict import Cause, TensorVerdict

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})

_UNCHANGED = frozenset({Cause.LOST_UPDATE, Cause.ROUNDED_UPDATE})


def _look_for(findings: Findings) -> str:
    what = findings.words("a detach(), a no_grad() block", "a jax.lax.stop_gradient")
    return f"look for {what}, or an output that the loss does not use"


def no_gradient(findings: Findings) -> Diagnosis | None:
    """Says where gradients stop, and which updates were lost with them."""
    if repeats_in(findings.candidate) is not None:
        return None  # its steps run together: what is missing came in another one
    missing = findings.evidence.absences.gradients
    left_out = findings.evidence.absences.not_run
    lost = [
        verdict
        for verdict in without_gradient(findings)
        if not any(found.has(verdict.id.module) for found in left_out)
    ]
    if not (missing or lost):
        return None
    gone = _gone(missing, findings)
    if gone and len(gone) == len(missing):
        sentence = _not_given(gone, lost, findings)
    elif missing:
        sentence = _stopped(missing, lost, findings)
    else:
        sentence = _not_made(lost, findings)
    return Diagnosis(
        code="no_gradient",
        sentence=sentence,
        evidence={"num_tensors": len(missing) + len(lost)},
        tensor_ids=ids_of([*missing, *lost]),
    )


def without_gradient(findings: Findings) -> list[TensorVerdict]:
    """Lost updates of parameters whose gradient the candidate lacks, or that is zero.

    What was skipped, or left out for all parameters by a filter, says nothing.
    """
    lost = [v for v in findings.failed if v.cause in _UNCHANGED]
    if not lost:
        return []
    found = _parameters_with_gradient(findings.candidate)
    missing = findings.evidence.absences.gradients
    gone = {_parameter(verdict.id) for verdict in _gone(missing, findings)}
    steps = {step for step, _, _ in found}
    zero = _parameters_with_zero_gradient(findings)
    return [
        verdict
        for verdict in lost
        if verdict.id.step in steps
        and (
            _parameter(verdict.id) not in found
            or _parameter(verdict.id) in zero
            or _parameter(verdict.id) in gone
        )
    ]


def has_gradients(step: int, info: TraceInfo) -> bool:
    """Whether a run recorded, or skipped, gradients of parameters in a step."""
    return any(found == step for found, _, _ in _parameters_with_gradient(info))


def _stopped(
    missing: Sequence[TensorVerdict], lost: Sequence[TensorVerdict], findings: Findings
) -> str:
    first = missing[0].id
    num = f"{len(missing)} gradient" + ("s" if len(missing) > 1 else "")
    are = "are" if len(missing) > 1 else "is"
    sentence = (
        f"no gradient reaches {first.module} in the candidate: {num} {are} only in the "
        f"reference, first {first}: {_look_for(findings)}"
    )
    return sentence + _not_updated(lost)


def _not_given(
    gone: Sequence[TensorVerdict], lost: Sequence[TensorVerdict], findings: Findings
) -> str:
    first = gone[0].id
    num = f"{len(gone)} gradient" + ("s" if len(gone) > 1 else "")
    causes = findings.words(
        "not reduced, as under no_sync() or after set_requires_gradient_sync(False) or "
        "set_requires_all_reduce(False), or cleared before optimizer.step(), or the "
        "optimizer was made of other parameters, before the model was sharded",
        "left out of the tree that its update is given, or masked",
    )
    sentence = (
        f"backward makes {num} in the candidate that the optimizer is not given, first "
        f"that of {first.slot} of {first.module} in step {first.step}: {causes}"
    )
    return sentence + _not_updated(lost)


def _not_updated(lost: Sequence[TensorVerdict]) -> str:
    was = "were" if len(lost) > 1 else "was"
    if not lost:
        return ""
    return f"; {tensors(len(lost))} {was} not updated, for want of a gradient"


def _gone(missing: Sequence[TensorVerdict], findings: Findings) -> list[TensorVerdict]:
    """Missing gradients of a step, of parameters that backward has made one of."""
    made = {
        _parameter(tensor_id)
        for tensor_id in findings.candidate.tensors
        if tensor_id.kind is Kind.PARAM_GRAD
    }
    return [
        verdict
        for verdict in missing
        if verdict.id.kind is Kind.MAIN_GRAD and _parameter(verdict.id) in made
    ]


def _not_made(lost: Sequence[TensorVerdict], findings: Findings) -> str:
    zero = _parameters_with_zero_gradient(findings)
    num_zero = sum(_parameter(verdict.id) in zero for verdict in lost)
    are, them = ("are", "them") if len(lost) > 1 else ("is", "it")
    if num_zero == len(lost):
        of_them = "their gradients are" if len(lost) > 1 else "its gradient is"
        return (
            f"{tensors(len(lost))} {are} not updated in the candidate, as {of_them} "
            f"zero there, and not in the reference: {_look_for(findings)}"
        )
    return (
        f"{tensors(len(lost))} {are} not updated in the candidate, as no gradient was "
        f"recorded for {them} there, while other parameters have one: "
        f"{_look_for(findings)}"
    )


def _parameter(tensor_id: TensorId) -> tuple[int, str, str | None]:
    return tensor_id.step, tensor_id.module, tensor_id.slot


def _parameters_with_gradient(info: TraceInfo) -> set[tuple[int, str, str | None]]:
    """Step, module and slot of all parameters whose gradient was seen."""
    return {
        _parameter(tensor_id)
        for tensor_id in (*info.tensors, *info.skipped)
        if tensor_id.kind in _OF_PARAMETERS
    }


def _parameters_with_zero_gradient(
    findings: Findings,
) -> set[tuple[int, str, str | None]]:
    """Those of whose gradient the candidate has nothing but zeros, in all that it has.

    Machinery that keeps gradients in a buffer has zeros where none arrives.
    """
    is_zero: dict[tuple[int, str, str | None], bool] = {}
    for verdict in findings.verdicts:
        if verdict.id.kind not in _OF_PARAMETERS or verdict.result is None:
            continue
        stats = verdict.result.stats
        known = is_zero.setdefault(_parameter(verdict.id), True)
        is_zero[_parameter(verdict.id)] = (
            known
            and stats.candidate_norm == 0
            and not stats.num_nonfinite_candidate  # which no norm counts
            and stats.reference_norm > 0
        )
    return {parameter for parameter, zero in is_zero.items() if zero}
