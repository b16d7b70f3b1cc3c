"""A loss that is wrong although what it is computed from agrees."""

import math
from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.diagnosis import LEAST_ELEMENTS, Diagnosis, Findings, ids_of
from ttrace.judge.frontier.uncompared import Uncompared, uncompared_before
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.rules.loss_scale import scale_of_loss
from ttrace.judge.rules.loss_weights import loss_weights
from ttrace.judge.rules.normalization import normalization
from ttrace.judge.verdicts.factors import factor_text, multiple_of, rounded_factor
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_SLACK = 1e-4
"""How far two factors that are one may be apart, as the loss itself is rounded."""

_OF_PARAMETERS = (Kind.PARAM_GRAD, Kind.MAIN_GRAD)


def loss_alone(findings: Findings) -> Diagnosis | None:
    """Says that the outputs agree, and what is left to differ in the loss.

    Where the gradient of what it is computed from was compared, that tells more: a
    multiple by the same factor speaks of the reduction, and one that agrees of the
    number that was recorded.
    """
    if not findings.failed or findings.evidence.runs.tokens is not None:
        return None
    if any(
        rule(findings) is not None
        for rule in (scale_of_loss, loss_weights, normalization)
    ):
        return None  # then more is known
    loss = findings.failed[0]
    if not _is_loss(loss):
        return None
    outputs = _outputs(findings.verdicts, loss)
    if not outputs:
        return None
    last = outputs[-1].id
    what = "the output of the model" if len(outputs) == 1 else "the model's outputs"
    agree = "agrees" if len(outputs) == 1 else "agree"
    if last.module != ROOT_MODULE:
        what = f"output {last.slot} of {last.module}, the last before the loss,"
        agree = "agrees"
    where = f"step {loss.id.step}"
    if loss.id.microbatch is not None:
        where += f", micro-batch {loss.id.microbatch}"
    cause, evidence = _cause(findings.verdicts, loss)
    uncompared = _uncompared(findings.verdicts, loss)
    if uncompared is not None:
        cause = (
            f"{uncompared.sentence}, so that the error may be in "
            f"{uncompared.names}: look there, and at the loss function"
        )
        evidence = {}
    return Diagnosis(
        code="loss_alone",
        sentence=f"{what} {agree} in {where} ({last}), and the loss differs: {cause}",
        evidence=evidence,
        tensor_ids=ids_of([loss, *outputs]),
    )


def _cause(
    verdicts: Sequence[TensorVerdict], loss: TensorVerdict
) -> tuple[str, dict[str, float]]:
    gradients = [
        v
        for v in verdicts
        if v.id.kind is Kind.GRAD_OUTPUT
        and v.id.module == ROOT_MODULE
        and (v.id.step, v.id.microbatch) == (loss.id.step, loss.id.microbatch)
        and v.status in (Status.PASSED, Status.FAILED)
        and v.result is not None
    ]
    if gradients and all(v.status is Status.PASSED for v in gradients):
        return _beside_the_output(verdicts, loss), {}
    factor = multiple_of(loss)
    scales = [multiple_of(v) for v in gradients]
    if factor is not None and rounded_factor(factor) != 1 and scales:
        if all(
            s is not None and math.isclose(s, factor, rel_tol=_SLACK) for s in scales
        ):
            return (
                f"it is {factor_text(factor)} times the reference's, as is the "
                "gradient of the output. Look at the reduction of the loss function: a "
                "sum or a mean, and over how many terms",
                {"factor": factor},
            )
    return (
        "look at the loss function: at the labels and how they are shifted, at the "
        "mask or the index that it ignores, at label smoothing and class weights, and "
        "at its reduction",
        {},
    )


def _uncompared(
    verdicts: Sequence[TensorVerdict], loss: TensorVerdict
) -> Uncompared | None:
    """What the loss may be computed from beside, where not all outputs were compared.

    None where the model's outputs were: the loss comes from these.
    """
    of_model = [
        verdict.status
        for verdict in verdicts
        if verdict.id.kind is Kind.OUTPUT
        and verdict.id.module == ROOT_MODULE
        and (verdict.id.step, verdict.id.microbatch)
        == (loss.id.step, loss.id.microbatch)
    ]
    if of_model and Status.SKIPPED not in of_model:
        return None
    seen = ((v.id, v.status, v.reason) for v in verdicts)
    return uncompared_before(loss.id, ROOT_MODULE, seen)


def _beside_the_output(verdicts: Sequence[TensorVerdict], loss: TensorVerdict) -> str:
    """What is left where the gradient of the output agrees: other gradients tell.

    Those of parameters follow from the output's, unless a term of the loss reaches
    them on another way.
    """
    others = [v for v in verdicts if _is_gradient_of_loss(v, loss)]
    failed = [v for v in others if v.status is Status.FAILED]
    agrees = "the gradient of the output agrees too"
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        return (
            f"{agrees}, but not all gradients before it ({failed[0].id}{more}). Both "
            "follow from a term of the loss that is not computed from the output, such "
            "as an auxiliary loss of a layer or a penalty on the weights: look at "
            "these terms, their factors and what they are summed over"
        )
    if any(v.id.kind in _OF_PARAMETERS for v in others):
        return (
            f"{agrees}, and those of the parameters, so that both runs differentiate "
            "the same loss. Look at what is recorded as the loss: a term that is added "
            "to it, or a mean over other samples, of the logged number alone"
        )
    return (
        f"{agrees}. Look at a term of the loss that is not computed from the output, "
        "such as an auxiliary loss of a layer or a penalty on the weights, and at "
        "what is recorded as the loss"
    )


def _is_gradient_of_loss(verdict: TensorVerdict, loss: TensorVerdict) -> bool:
    """Whether it was compared, and is a gradient of this loss or of its step."""
    return (
        verdict.id.kind in (*_OF_PARAMETERS, Kind.GRAD_OUTPUT, Kind.GRAD_INPUT)
        and verdict.status in (Status.PASSED, Status.FAILED)
        and verdict.id.step == loss.id.step
        and verdict.id.microbatch in (None, loss.id.microbatch)
    )


def _is_loss(verdict: TensorVerdict) -> bool:
    """Whether it is the loss, recorded as such or returned by the model."""
    if not failed_by_values(verdict) or verdict.result is None:
        return False
    is_returned = (
        verdict.id.kind is Kind.OUTPUT
        and verdict.id.module == ROOT_MODULE
        and verdict.result.stats.count == 1
    )
    return verdict.id.kind is Kind.LOSS or is_returned


def _outputs(
    verdicts: Sequence[TensorVerdict], loss: TensorVerdict
) -> list[TensorVerdict]:
    """What the loss is computed from, if all of it agrees: none if not, or unknown.

    The model's outputs; where none was compared, the last output before the loss.
    """
    of_model: list[TensorVerdict] = []
    last: TensorVerdict | None = None
    is_before = True
    for verdict in verdicts:
        id_ = verdict.id
        is_before = is_before and id_ != loss.id
        if id_.kind is not Kind.OUTPUT or verdict.result is None:
            continue
        if (id_.step, id_.microbatch) != (loss.id.step, loss.id.microbatch):
            continue
        if verdict.result.stats.count < LEAST_ELEMENTS:
            continue
        if id_.module == ROOT_MODULE:
            of_model.append(verdict)
        elif is_before:
            last = verdict
    found = of_model or ([last] if last is not None else [])
    is_agreed = all(verdict.status is Status.PASSED for verdict in found)
    return found if is_agreed else []
