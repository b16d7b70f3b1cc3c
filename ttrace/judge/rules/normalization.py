"""A loss that is divided by another number than that of the reference."""

import math

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.tolerances.setup import is_script_scalar
from ttrace.judge.verdicts.verdict import TensorVerdict

_SLACK = 1e-4
"""How far a loss may be from exactly the inverse factor, as its own sum is rounded."""


def normalization(findings: Findings) -> Diagnosis | None:
    """Names the number that the script gave the model, where the loss follows it.

    It does if the loss of the same micro-batch is larger by just the factor that the
    number is smaller by, in every micro-batch of that step where both are known. In
    later steps the parameters differ, and the loss with them.
    """
    numbers: list[TensorVerdict] = []
    losses: list[TensorVerdict] = []
    by_place = {_place(verdict.id): verdict for verdict in findings.failed}
    for verdict in findings.failed:
        if not _is_number(verdict) or (
            numbers and verdict.id.step != numbers[0].id.step
        ):
            continue
        loss = next(
            (by_place[place] for place in _losses_of(verdict.id) if place in by_place),
            None,
        )
        factor, of_loss = _factor(verdict), _factor(loss)
        if loss is None or factor is None or of_loss is None:
            continue
        if abs(factor * of_loss - 1) > _SLACK:
            return None
        numbers.append(verdict)
        losses.append(loss)
    if not numbers:
        return None
    first = numbers[0]
    assert first.result is not None
    reference = first.result.stats.reference_norm
    candidate = first.result.stats.candidate_norm
    ratio = reference / candidate
    return Diagnosis(
        code="normalization",
        sentence=f"the loss is divided by another number: {first.id} is "
        f"{candidate:g}, and {reference:g} in the reference, and the loss of that "
        f"micro-batch is larger by just this factor ({ratio:.3g}). A number of tokens "
        "must be counted over the whole step and all devices, in both runs",
        evidence={
            "slot": first.id.slot or "",
            "reference": reference,
            "candidate": candidate,
        },
        tensor_ids=ids_of([*numbers, *losses]),
    )


_Place = tuple[int, int | None, Kind, str | None]


def _place(tensor_id: TensorId) -> _Place | None:
    if tensor_id.module != ROOT_MODULE:
        return None
    return tensor_id.step, tensor_id.microbatch, tensor_id.kind, tensor_id.slot


def _losses_of(number: TensorId) -> tuple[_Place, ...]:
    """Where the loss of the same micro-batch may have been recorded."""
    at = (number.step, number.microbatch)
    return (*at, Kind.LOSS, None), (*at, Kind.OUTPUT, "loss")


def _is_number(verdict: TensorVerdict) -> bool:
    result = verdict.result
    return (
        verdict.id.module == ROOT_MODULE
        and result is not None
        and is_script_scalar(verdict.id, result.plan.match.reference.global_shape)
    )


def _factor(verdict: TensorVerdict | None) -> float | None:
    """Candidate over reference, of a single number; None where that says nothing."""
    if verdict is None or verdict.result is None:
        return None
    stats = verdict.result.stats
    if stats.count != 1 or not stats.reference_norm or not stats.candidate_norm:
        return None
    if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
        return None
    return math.copysign(stats.candidate_norm / stats.reference_norm, stats.cosine)
