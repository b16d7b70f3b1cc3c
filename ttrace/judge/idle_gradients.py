"""Gradients that reach no parameter, and that the candidate alone computes.

Checkpointing of the reentrant kind makes the output of frozen embeddings require a
gradient, so that one flows through all that lies ahead of the first trained parameter.
Nothing is trained by it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ttrace.ir.kinds import ACTIVATIONS, GRADIENT_OF, GRADIENTS, Kind
from ttrace.ir.side import Side
from ttrace.judge.verdict import Status, TensorVerdict

_FORWARD_OF = {gradient: kind for kind, gradient in GRADIENT_OF.items()}

_BAD = (Status.FAILED, Status.UNMATCHED)

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})

_TRAINING = _OF_PARAMETERS | {Kind.LOSS, Kind.GRAD_NORM, Kind.CLIPPED_GRAD}

_REASON = (
    "candidate only: a gradient that reaches no parameter, as where the output of "
    "frozen embeddings requires one; those of all parameters agree"
)


def skip_idle_gradients(
    verdicts: Sequence[TensorVerdict],
) -> tuple[TensorVerdict, ...]:
    """Skips gradients of activations that only the candidate has, and that do nothing.

    In a step of which the gradients of all parameters that either run trains were
    compared and agree, and of tensors that agree. What only the reference has stays
    unmatched: a gradient that is missing may have been meant for a parameter.

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
        replace(verdict, status=Status.SKIPPED, reason=_REASON)
        if verdict.status is Status.UNMATCHED
        and verdict.present is Side.CANDIDATE
        and not verdict.beyond
        and verdict.id.kind in ACTIVATIONS & GRADIENTS
        and verdict.id.step in steps
        and replace(verdict.id, kind=_FORWARD_OF[verdict.id.kind]) in agreeing
        else verdict
        for verdict in verdicts
    )


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
