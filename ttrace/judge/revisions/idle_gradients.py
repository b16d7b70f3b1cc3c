"""Gradients of activations that one run alone has, and that change no training.

Checkpointing of the reentrant kind makes the output of frozen embeddings require a
gradient, so that one flows through all that lies ahead of the first trained parameter.
And what a model returns may be cast or copied for the script, behind the loss that the
model computed itself: no gradient comes from there, and none is missing inside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ttrace.ir.kinds import ACTIVATIONS, GRADIENT_OF, GRADIENTS, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_FORWARD_OF = {gradient: kind for kind, gradient in GRADIENT_OF.items()}

_BAD = (Status.FAILED, Status.UNMATCHED)

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})

_TRAINING = _OF_PARAMETERS | {Kind.LOSS, Kind.GRAD_NORM, Kind.CLIPPED_GRAD}

_REASON = (
    "candidate only: a gradient that reaches no parameter, as where the output of "
    "frozen embeddings requires one; those of all parameters agree"
)

_OUTSIDE = (
    "reference only: the candidate's loss does not come from this output as the model "
    "returns it, as where it is cast or copied for the script; gradients of all "
    "parameters agree"
)


def skip_idle_gradients(
    verdicts: Sequence[TensorVerdict],
) -> tuple[TensorVerdict, ...]:
    """Skips gradients of activations that only one run has, and that do nothing.

    In a step of which the gradients of all parameters that either run trains were
    compared and agree, and of tensors that agree. Of what only the reference has, those
    of the outputs of the whole model; others stay unmatched: a gradient that is missing
    may have been meant for a parameter, or for what is outside of the model.

    Args:
        verdicts: One per tensor.

    Returns:
        The verdicts, those on such gradients turned from unmatched to skipped.
    """
    steps = _agreeing_steps(verdicts)
    agreeing = {
        verdict.id
        for verdict in verdicts
        if verdict.id.kind in ACTIVATIONS and verdict.status not in _BAD
    }
    return tuple(
        replace(verdict, status=Status.SKIPPED, reason=_reason(verdict))
        if verdict.status is Status.UNMATCHED
        and _reason(verdict)
        and not verdict.beyond
        and verdict.id.kind in ACTIVATIONS & GRADIENTS
        and verdict.id.step in steps
        and replace(verdict.id, kind=_FORWARD_OF[verdict.id.kind]) in agreeing
        else verdict
        for verdict in verdicts
    )


def _reason(verdict: TensorVerdict) -> str:
    """Why nothing depends on it; empty where that is not known."""
    if verdict.present is Side.CANDIDATE:
        return _REASON
    is_returned = (verdict.id.module, verdict.id.kind) == (
        ROOT_MODULE,
        Kind.GRAD_OUTPUT,
    )
    return _OUTSIDE if is_returned else ""


def _agreeing_steps(verdicts: Iterable[TensorVerdict]) -> set[int]:
    """Steps in which all that trains agrees, gradients of parameters among it."""
    found: set[int] = set()
    bad: set[int] = set()
    for verdict in verdicts:
        if verdict.id.kind not in _TRAINING:
            continue
        if verdict.status in _BAD:
            bad.add(verdict.id.step)
        elif verdict.id.kind in _OF_PARAMETERS and verdict.status is Status.PASSED:
            if not verdict.noise_dominated:
                found.add(verdict.id.step)
    return found - bad
