"""Gradients that the reference has and the candidate lacks, of tensors that both have.

Their forward was compared, so that it is no module that is missing: no gradient reaches
this place in the candidate. That is a failure there, like a wrong value.
"""

from collections.abc import Sequence
from dataclasses import replace

from ttrace.ir.kinds import ACTIVATIONS, GRADIENT_OF, GRADIENTS, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.absences.modules_not_run import NotRun
from ttrace.judge.absences.own_gradients import OwnGradients, parameter_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_FORWARD_OF = {gradient: kind for kind, gradient in GRADIENT_OF.items()}

_PARAMETERS = frozenset({Kind.PARAM, Kind.UPDATED_PARAM})


def missing_gradients(
    verdicts: Sequence[TensorVerdict],
    left_out: Sequence[NotRun],
    own: OwnGradients,
) -> list[TensorVerdict]:
    """Those verdicts that are on such a gradient, in the same order.

    A candidate in which no gradient at all was compared says nothing: it may not record
    any. Of a step in which it recorded some, which cannot be compared, and in which its
    optimizer steps, it says what that is not given. Where no parameters were compared,
    those whose gradients were asked for are taken to be there. A gradient of a
    micro-batch is not missing where that of the step arrived, nor is what a run does
    not clip, nor that of a step, a micro-batch, or a call of the optimizer's closure,
    of which the candidate has nothing. What lies in a module that does not run misses
    its forward.

    Args:
        verdicts: On all tensors.
        left_out: Modules that do not run in one of the runs.
        own: What the candidate recorded of gradients.
    """
    compared = {v.id for v in verdicts if v.status in (Status.PASSED, Status.FAILED)}
    is_any_compared = any(tensor_id.kind in GRADIENTS for tensor_id in compared)
    parameters = {(id_.module, id_.slot) for id_ in compared if id_.kind in _PARAMETERS}
    arrived = {
        (v.id.step, v.id.module, v.id.slot)
        for v in verdicts
        if v.id.kind is Kind.MAIN_GRAD
        and v.result
        and (v.result.stats.candidate_norm or v.result.stats.num_nonfinite_candidate)
    }
    return [
        verdict
        for verdict in verdicts
        if verdict.status is Status.UNMATCHED
        and verdict.present is Side.REFERENCE
        and not verdict.beyond
        and verdict.id.kind in GRADIENTS - {Kind.CLIPPED_GRAD}
        and not own.lacks_evaluation(verdict.id)
        and (is_any_compared or _is_not_given(verdict.id, own))
        and not (
            verdict.id.kind is Kind.PARAM_GRAD
            and (verdict.id.step, verdict.id.module, verdict.id.slot) in arrived
        )
        and _is_there(verdict.id, compared, parameters)
        and not any(
            found.step == verdict.id.step and found.has(verdict.id.module)
            for found in left_out
        )
    ]


def _is_not_given(gradient: TensorId, own: OwnGradients) -> bool:
    """Whether an optimizer steps without it, in a step that has a backward."""
    return (
        gradient.kind is Kind.MAIN_GRAD
        and own.wants_main_grad
        and gradient.step in own.stepped
        and own.has_backward(gradient.step)
        and parameter_of(gradient) not in own.given
    )


def _is_there(
    gradient: TensorId,
    compared: set[TensorId],
    parameters: set[tuple[str, str | None]],
) -> bool:
    """Whether both runs have that of which it is the gradient."""
    if gradient.kind in ACTIVATIONS:
        return replace(gradient, kind=_FORWARD_OF[gradient.kind]) in compared
    return not parameters or (gradient.module, gradient.slot) in parameters
