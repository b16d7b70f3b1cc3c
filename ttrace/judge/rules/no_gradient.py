"""Places that no gradient reaches in the candidate."""

from collections.abc import Sequence
from dataclasses import replace

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.absences.own_gradients import OwnGradients, Parameter, parameter_of
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.reading.carried import when
from ttrace.judge.runs.remarks import repeats_in
from ttrace.judge.runs.unreduced import unreduced_modules
from ttrace.judge.verdicts.verdict import Cause, TensorVerdict

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})

_UNCHANGED = frozenset({Cause.LOST_UPDATE, Cause.ROUNDED_UPDATE})


def _look_for(findings: Findings) -> str:
    what = findings.words("a detach(), a no_grad() block", "a jax.lax.stop_gradient")
    return f"look for {what}, or an output that the loss does not use"


_MAX_CALLS = 8

_MAX_NAMED = 3


def no_gradient(findings: Findings) -> Diagnosis | None:
    """Says where gradients stop, and which updates were lost with them."""
    if repeats_in(findings.candidate) is not None:
        return None  # its steps run together: what is missing came in another one
    missing = findings.evidence.runs.absences.gradients
    left_out = findings.evidence.runs.absences.not_run
    lost = [
        verdict
        for verdict in without_gradient(findings)
        if not any(found.has(verdict.id.module) for found in left_out)
    ]
    if not (missing or lost):
        return None
    gone = _gone(missing, findings.own)
    if findings.evidence.runs.absences.frozen:
        sentence = _frozen(missing, lost, findings)
    elif gone and len(gone) == len(missing):
        sentence = _not_given(gone, lost, findings)
    elif missing and all(_is_unknown(verdict.id, findings.own) for verdict in missing):
        sentence = _not_seen(missing, lost, findings)
    elif missing:
        stopped = [verdict for verdict in missing if verdict not in gone]
        sentence = _stopped(stopped, lost, findings)
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
    missing = findings.evidence.runs.absences.gradients
    gone = {parameter_of(verdict.id) for verdict in _gone(missing, findings.own)}
    zero = _parameters_with_zero_gradient(findings)
    return [
        verdict
        for verdict in lost
        if findings.own.has_any_of(verdict.id.step)
        and (
            parameter_of(verdict.id) not in findings.own.seen
            or parameter_of(verdict.id) in zero
            or parameter_of(verdict.id) in gone
        )
    ]


def _frozen(
    missing: Sequence[TensorVerdict], lost: Sequence[TensorVerdict], findings: Findings
) -> str:
    """Which parameters need no gradient there; and which lack one besides."""
    frozen = findings.evidence.runs.absences.frozen
    names = list(dict.fromkeys(_full_name(verdict.id) for verdict in frozen))
    others = dict.fromkeys(
        _full_name(verdict.id)
        for verdict in missing
        if verdict.id.kind in _OF_PARAMETERS
        and (verdict.id.module, verdict.id.slot) not in findings.own.frozen
    )
    gets, have, their = (
        ("gets", "has", "its") if len(names) == 1 else ("get", "have", "their")
    )
    sentence = (
        f"{_few(names)} {gets} no gradient in the candidate, where {their} "
        f"requires_grad is False as the trace begins, and {have} one in the "
        f"reference: {_only_in_reference(missing)}, first {frozen[0].id}. Set "
        "requires_grad alike in both runs, before the optimizer is made"
    )
    if others:
        which = _few(list(others))
        sentence += (
            f"; {which} {'have' if len(others) > 1 else 'has'} none either, and "
            f"{'are' if len(others) > 1 else 'is'} not frozen: {_look_for(findings)}"
        )
    return sentence + _not_updated(lost)


def _full_name(tensor_id: TensorId) -> str:
    return f"{tensor_id.module}.{tensor_id.slot}"


def _few(names: Sequence[str]) -> str:
    """``a.weight, a.bias and 3 more parameters``."""
    named = names[:_MAX_NAMED]
    more = len(names) - len(named)
    if more:
        return f"{', '.join(named)} and {more} more parameter{'s' * (more > 1)}"
    return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def _stopped(
    missing: Sequence[TensorVerdict], lost: Sequence[TensorVerdict], findings: Findings
) -> str:
    first, own = missing[0].id, findings.own
    of_input = first.kind is Kind.GRAD_INPUT
    call = first.call if of_input else None
    is_cut_inside = of_input or first.kind in _OF_PARAMETERS
    source = findings.evidence.place.carried.get(first)
    if source is not None:
        return (
            f"input {first.slot} of {first.module} (step {first.step}, micro-batch "
            f"{first.microbatch}) is its output {source.slot} of "
            f"{when(source, first)}, a state that is carried over, and a gradient "
            f"reaches it in the reference only: {_only_in_reference(missing)}, first "
            f"{first}. The candidate detaches the state there: detach it in both runs "
            f"or in neither{_not_updated(lost)}"
        )
    if is_cut_inside and own.reaches(first.step, first.module, call=call):
        what = f"input {first.slot}" if of_input else first.slot
        cut = findings.words(
            f"{'' if of_input else 'requires_grad=False, or for '}"
            "a detach() or a no_grad() block",
            "a jax.lax.stop_gradient, or for what the gradient is taken by",
        )
        behind = [
            _full_name(v.id)
            for v in missing
            if of_input and v.id.kind in _OF_PARAMETERS and v.id.step == first.step
        ]
        of_parameters = f", nor {_few(list(dict.fromkeys(behind)))}" if behind else ""
        sentence = (
            f"gradients reach the outputs of {first.module} in step {first.step} of "
            f"the candidate, and none its {what}{of_parameters}: "
            f"{_only_in_reference(missing)}, first {first}: look for {cut} "
            f"{'in what makes that input, or ' if of_input else ''}where the module "
            "uses it"
        )
        return sentence + _not_updated(lost)
    others = own.outputs_with(first) if first.kind is Kind.GRAD_OUTPUT else []
    if others and first.slot not in others:
        return _at_another_output(missing, others, findings) + _not_updated(lost)
    sentence = (
        f"no gradient reaches {_place(first, missing, own)} in the candidate: "
        f"{_only_in_reference(missing)}, first {first}: {_look_for(findings)}"
    )
    return sentence + _not_updated(lost)


def _at_another_output(
    missing: Sequence[TensorVerdict], others: Sequence[str], findings: Findings
) -> str:
    """Which outputs of a module have a gradient, where one lacks it that should."""
    first = missing[0].id
    instead = [
        slot
        for slot in others
        if any(
            v.present is Side.CANDIDATE
            and v.id == replace(first, slot=slot, microbatch=v.id.microbatch)
            for v in findings.verdicts
        )
    ]
    at = (
        f"output {first.slot} of {first.module} has a gradient in the reference and "
        f"none in the candidate (step {first.step}): "
        f"{_only_in_reference(missing)}, first {first}"
    )
    if instead:
        return (
            f"{at}. In the candidate {_outputs(instead)} one instead: look at which "
            f"output of {first.module} the candidate goes on with"
        )
    return f"{at}. {_outputs(others).capitalize()} one in both: {_look_for(findings)}"


def _outputs(slots: Sequence[str]) -> str:
    """``output 1 has``, ``outputs 1.0 and 1.1 have``."""
    if len(slots) == 1:
        return f"output {slots[0]} has"
    return f"outputs {' and '.join(slots)} have"


def _place(first: TensorId, missing: Sequence[TensorVerdict], own: OwnGradients) -> str:
    """The module; those of its calls, where others have the gradient."""
    calls_with = own.calls_with(first)
    if first.kind not in ACTIVATIONS or not calls_with:
        if first.kind is Kind.PARAM_GRAD and parameter_of(first) in own.made:
            return f"{first.module} in micro-batch {first.microbatch}"
        return first.module
    calls = {
        verdict.id.call
        for verdict in missing
        if verdict.id.kind is first.kind
        and verdict.id.module == first.module
        and verdict.id.step == first.step
        and verdict.id.microbatch == first.microbatch
        and verdict.id.slot == first.slot
    }
    if calls & calls_with:
        return f"{first.module} in micro-batch {first.microbatch}"
    have = "have" if len(calls_with) > 1 else "has"
    return (
        f"{_calls(sorted(calls))} of {first.module} (those numbered "
        f"{_listed(sorted(calls_with))} {have} one)"
        if len(calls_with) > 1
        else f"{_calls(sorted(calls))} of {first.module} ({_calls(sorted(calls_with))} "
        f"{have} one)"
    )


def _calls(numbers: Sequence[int]) -> str:
    return f"call{'s' * (len(numbers) > 1)} {_listed(numbers)}"


def _listed(numbers: Sequence[int]) -> str:
    """``0, 1 and 2``; a few of many."""
    named = [str(number) for number in numbers[:_MAX_CALLS]]
    more = len(numbers) - len(named)
    if more:
        return f"{', '.join(named)} and {more} more"
    return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def _only_in_reference(missing: Sequence[TensorVerdict]) -> str:
    are = "s are" if len(missing) > 1 else " is"
    return f"{len(missing)} gradient{are} only in the reference"


def _not_given(
    gone: Sequence[TensorVerdict], lost: Sequence[TensorVerdict], findings: Findings
) -> str:
    first = gone[0].id
    num = f"{len(gone)} gradient" + ("s" if len(gone) > 1 else "")
    sentence = (
        f"backward makes {num} in the candidate that the optimizer is not given, first "
        f"that of {first.slot} of {first.module} in step {first.step}: "
        f"{_why_not_given(gone, findings)}"
    )
    return sentence + _not_updated(lost)


def _why_not_given(gone: Sequence[TensorVerdict], findings: Findings) -> str:
    """What was seen of the cause; all that it may be where nothing was."""
    first = gone[0].id
    unreduced = unreduced_modules(first.step, findings.candidate)
    if unreduced:
        return (
            f"set_requires_gradient_sync(False) was in force for {unreduced} of FSDP2 "
            "when the optimizer stepped, so that nothing reduced them: set it back to "
            "True before the last micro-batch of a step"
        )
    held = findings.own.updated
    is_watched = findings.candidate.ranks[0].framework == "torch"
    steps_for_others = any(step == first.step for step, _, _ in held)
    if is_watched:
        skipped = _skipped_step(gone, findings)
        if skipped:
            return skipped
    if is_watched and steps_for_others:
        if not any(parameter_of(verdict.id) in held for verdict in gone):
            return (
                "no optimizer that the trace was given holds these parameters, and "
                "one steps without them: it was made of others, as before the model "
                "was sharded or its parameters replaced, or is one of several; give "
                "it all parameters, or the trace all optimizers"
            )
        if all(parameter_of(verdict.id) in held for verdict in gone):
            return (
                "the optimizer holds these parameters, and their grad is None when it "
                "steps: not reduced, as under no_sync() or after "
                "set_requires_gradient_sync(False) or "
                "set_requires_all_reduce(False), or cleared before optimizer.step()"
            )
    return findings.words(
        "not reduced, as under no_sync() or after set_requires_gradient_sync(False) or "
        "set_requires_all_reduce(False), or cleared before optimizer.step(), or the "
        "optimizer was made of other parameters, before the model was sharded",
        "left out of the tree that its update is given, or masked",
    )


def _skipped_step(gone: Sequence[TensorVerdict], findings: Findings) -> str:
    """That the optimizer of parameters does not step, where it does in other steps."""
    step, held = gone[0].id.step, findings.own.updated
    of_step = [parameter_of(v.id)[1:] for v in gone if v.id.step == step]
    if any((step, *name) in held for name in of_step):
        return ""
    others: dict[tuple[str, str | None], set[int]] = {}
    for other, module, slot in held:
        others.setdefault((module, slot), set()).add(other)
    if not all(name in others for name in of_step):
        return ""
    does = min(others[of_step[0]])
    return (
        f"the optimizer that holds these parameters does not step in step {step}, and "
        f"does in step {does}: look at what leaves its step() out"
    )


def _not_seen(
    missing: Sequence[TensorVerdict], lost: Sequence[TensorVerdict], findings: Findings
) -> str:
    """That the optimizer is given none, where no backward was recorded of it."""
    first = missing[0].id
    sentence = (
        f"the optimizer of the candidate is not given {_gradients(len(missing))} that "
        f"that of the reference is given, first that of {first.slot} of {first.module} "
        f"in step {first.step}; whether backward makes them was not recorded: record "
        f"param_grad to tell, and {_look_for(findings)}"
    )
    return sentence + _not_updated(lost)


def _gradients(num: int) -> str:
    return f"{num} gradient" + ("s" if num > 1 else "")


def _is_unknown(gradient: TensorId, own: OwnGradients) -> bool:
    """Whether the run says nothing of what backward makes at a place."""
    return gradient.kind is Kind.MAIN_GRAD and not own.says_what_is_made(gradient)


def _not_updated(lost: Sequence[TensorVerdict]) -> str:
    was = "were" if len(lost) > 1 else "was"
    if not lost:
        return ""
    return f"; {tensors(len(lost))} {was} not updated, for want of a gradient"


def _gone(missing: Sequence[TensorVerdict], own: OwnGradients) -> list[TensorVerdict]:
    """Missing gradients of a step, of parameters that backward has made one of."""
    return [
        verdict
        for verdict in missing
        if verdict.id.kind is Kind.MAIN_GRAD and parameter_of(verdict.id) in own.made
    ]


def _not_made(lost: Sequence[TensorVerdict], findings: Findings) -> str:
    zero = _parameters_with_zero_gradient(findings)
    num_zero = sum(parameter_of(verdict.id) in zero for verdict in lost)
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


def _parameters_with_zero_gradient(findings: Findings) -> set[Parameter]:
    """Those of whose gradient the candidate has nothing but zeros, in all that it has.

    Machinery that keeps gradients in a buffer has zeros where none arrives.
    """
    is_zero: dict[Parameter, bool] = {}
    for verdict in findings.verdicts:
        if verdict.id.kind not in _OF_PARAMETERS or verdict.result is None:
            continue
        stats = verdict.result.stats
        known = is_zero.setdefault(parameter_of(verdict.id), True)
        is_zero[parameter_of(verdict.id)] = (
            known
            and stats.candidate_norm == 0
            and not stats.num_nonfinite_candidate  # which no norm counts
            and stats.reference_norm > 0
        )
    return {parameter for parameter, zero in is_zero.items() if zero}
