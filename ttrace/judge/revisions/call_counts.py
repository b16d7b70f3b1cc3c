"""Modules that one run calls more often in a micro-batch than the other.

A kernel for all experts at once calls their activation once, where a loop calls it for
each; a critic is given real and generated samples one by one, or joined. The calls then
hold other rows, and nothing pairs them. Where all that follows of them was compared and
agrees, nothing of the computation is missing.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from ttrace.compare.calls.call_counts import (
    CallCount,
    Place,
    calls_text,
    differing_calls,
    place_of,
)
from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdicts.structure import (
    BOTH_SIDES,
    Modules,
    StructureDifference,
    layers_left_out,
    modules_with_parameters,
)
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_BAD = (Status.FAILED, Status.UNMATCHED)

_OF_PARAMETERS = (Kind.PARAM_GRAD, Kind.MAIN_GRAD)


def skip_other_calls(
    verdicts: Sequence[TensorVerdict],
    reference: TraceInfo,
    candidate: TraceInfo,
    *,
    assumed: Mapping[Place, CallCount] | None = None,
) -> tuple[tuple[TensorVerdict, ...], tuple[StructureDifference, ...]]:
    """Skips what calls were given and returned, where all that follows agrees.

    Of a module without parameters, if the input and the output of the module around it
    agree. Of any module, if all else that was compared agrees, in all steps, and that
    is losses and gradients of its parameters, too.

    Args:
        verdicts: One per tensor.
        reference: The trusted run.
        candidate: The run under test.
        assumed: Where calls were paired although they are not all given the same.

    Returns:
        The verdicts, those on tensors of such calls turned to skipped, and what they
        are.
    """
    counts = {**differing_calls(reference, candidate), **(assumed or {})}
    if not counts:
        return tuple(verdicts), ()
    why = _reasons(verdicts, counts, reference, candidate)
    by_module: dict[tuple[str, str], list[CallCount]] = {}
    for place, (behind, _) in why.items():
        key = layers_left_out(place[2]), layers_left_out(behind)
        by_module.setdefault(key, []).append(counts[place])
    judged, numbers = [], dict.fromkeys(by_module, 0)
    for verdict in verdicts:
        place = place_of(verdict.id)
        if is_of_call(verdict, why):
            behind, agrees = why[place]
            key = layers_left_out(place[2]), layers_left_out(behind)
            numbers[key] += 1
            verdict = replace(
                verdict,
                status=Status.SKIPPED,
                cause=None,
                margin=None,
                reason=f"structure differs: {key[0]} is {calls_text(by_module[key])}, "
                f"and its calls have no counterpart; {agrees}",
            )
        judged.append(verdict)
    return tuple(judged), tuple(
        StructureDifference(
            modules=pattern,
            present=BOTH_SIDES,
            around=around,
            num_tensors=numbers[pattern, around],
            calls=calls_text(of_module),
        )
        for (pattern, around), of_module in by_module.items()
        if numbers[pattern, around]
    )


def is_of_call(verdict: TensorVerdict, places: Container[Place]) -> bool:
    """Whether a verdict is on what a call was given or returned there, and is bad.

    Its shape differs, or a value that another call has; or only one run has it.
    """
    return (
        verdict.id.kind in ACTIVATIONS
        and verdict.status in _BAD
        and place_of(verdict.id) in places
    )


def _reasons(
    verdicts: Sequence[TensorVerdict],
    counts: Mapping[Place, CallCount],
    reference: TraceInfo,
    candidate: TraceInfo,
) -> dict[Place, tuple[str, str]]:
    """By place what agrees around it, as a path and in words."""
    modules = Modules(verdicts)
    with_parameters = modules_with_parameters(reference) | modules_with_parameters(
        candidate
    )
    found: dict[Place, tuple[str, str]] = {}
    for place in counts:
        module = place[2]
        parent = modules.around(module) if module != ROOT_MODULE else module
        if module not in with_parameters and modules.agrees(parent):
            around = layers_left_out(parent)
            found[place] = parent, f"input and output of {around}, around it, agree"
    others = set(counts) - set(found)
    if others and _all_else_agrees(verdicts, counts):
        words = (
            "all else agrees, with the gradients of its parameters"
            if any(place[2] in with_parameters for place in others)
            else "all else agrees, with the gradients of parameters"
        )
        for place in others:
            found[place] = ROOT_MODULE, words
    return found


def _all_else_agrees(
    verdicts: Sequence[TensorVerdict], counts: Mapping[Place, CallCount]
) -> bool:
    """Whether all else was compared and agrees, and shows what the calls come to.

    Losses, where there are any; and of the gradients of each module's parameters at
    least one that noise does not hide, in each step.
    """
    gradients: dict[tuple[int, str], bool] = {}
    losses: list[bool] = []
    for verdict in verdicts:
        id_ = verdict.id
        if is_of_call(verdict, counts):
            continue
        if verdict.status in _BAD:
            return False
        shows = verdict.status is Status.PASSED and not verdict.noise_dominated
        if id_.kind is Kind.LOSS:
            losses.append(shows)
        elif id_.kind in _OF_PARAMETERS:
            key = id_.step, id_.module
            gradients[key] = gradients.get(key, False) or shows
        elif id_.kind is Kind.UPDATED_PARAM:
            gradients.setdefault((id_.step, id_.module), False)
    of_modules = {(step, module) for step, _, module in counts}
    return (
        any(gradients.values())
        and (not losses or any(losses))
        and all(shows for key, shows in gradients.items() if key in of_modules)
    )
