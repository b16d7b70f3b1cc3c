"""Updates that are wrong while the gradients agree: which hyper-parameter it may be."""

import math
from collections.abc import Mapping, Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.diagnosis import LEAST_ELEMENTS, Diagnosis, Findings, ids_of, tensors
from ttrace.judge.optimizer_settings import OptimizerDifference
from ttrace.judge.update_fit import UpdateFit, common_value
from ttrace.judge.verdict import Cause, Status, TensorVerdict

_LEAST_SHARE = 0.5
"""Of the examined updates, that one value must explain."""

_LEAST_LIKENESS = 1e-2
"""Relative, of a decay to what recorded settings give."""


def update_hyperparameters(findings: Findings) -> Diagnosis | None:
    """Names the learning rate or the weight decay, where it explains the updates.

    Not where moments that the decay goes through explain them: it is no other one then.
    """
    if findings.evidence.optimizer.state_decays:
        return None
    factor = _common_factor(findings)
    if factor is not None:
        scaled = [
            fit for fit in findings.evidence.optimizer.updates if fit.factor is not None
        ]
        return _wrong_rate(findings, scaled, factor)
    decay = _common_decay(findings)
    if decay is not None:
        decayed = [
            fit for fit in findings.evidence.optimizer.updates if fit.decay is not None
        ]
        return _wrong_decay(findings, decayed, decay)
    decays = _two_decays(findings)
    return None if decays is None else _wrong_decays(findings, *decays)


def named_by_decay(findings: Findings) -> list[OptimizerDifference]:
    """The recorded weight decay, where it differs by as much as the updates show."""
    decay = _common_decay(findings)
    if decay is None or _common_factor(findings) is not None:
        return []
    return [
        difference
        for difference in findings.evidence.optimizer.settings
        if difference.name == "weight_decay"
        and any(
            math.isclose(decay, rate * change, rel_tol=_LEAST_LIKENESS)
            for rate in _common_rates(findings)
            for change in _changes(difference)
        )
    ]


def _common_factor(findings: Findings) -> float | None:
    """What all updates that it explains are multiplied by; None if that is no proof."""
    fits = findings.evidence.optimizer.updates
    scaled = [fit for fit in fits if fit.factor is not None]
    factor = common_value([fit.factor for fit in scaled if fit.factor is not None])
    return factor if factor is not None and _is_proof(scaled, fits) else None


def _common_decay(findings: Findings) -> float | None:
    """The share of the parameter that updates lose beside; None if that is no proof."""
    fits = findings.evidence.optimizer.updates
    decayed = [fit for fit in fits if fit.decay is not None]
    decay = common_value([fit.decay for fit in decayed if fit.decay is not None])
    return decay if decay is not None and _is_proof(decayed, fits) else None


def _two_decays(findings: Findings) -> tuple[float, float] | None:
    """What some updates lose more, and others less; None if that is no proof."""
    fits = findings.evidence.optimizer.updates
    decayed = [fit for fit in fits if fit.decay is not None]
    found = [
        common_value([f.decay for f in of_group if f.decay is not None])
        for of_group in (_losing_more(decayed), _losing_less(decayed))
    ]
    more, less = found
    if more is None or less is None or not _is_proof(decayed, fits):
        return None
    return more, less


def _losing_more(fits: Sequence[UpdateFit]) -> list[UpdateFit]:
    return [fit for fit in fits if fit.decay is not None and fit.decay > 0]


def _losing_less(fits: Sequence[UpdateFit]) -> list[UpdateFit]:
    return [fit for fit in fits if fit.decay is not None and fit.decay <= 0]


def _common_rates(findings: Findings) -> list[float]:
    """The learning rates of the step of the updates, in which both runs agree."""
    step = findings.evidence.optimizer.updates[0].id.step
    return [
        verdict.result.stats.max_abs_reference
        for verdict in findings.verdicts
        if verdict.id.kind is Kind.LEARNING_RATE
        and verdict.id.step == step
        and verdict.status is Status.PASSED
        and verdict.result is not None
    ]


def _changes(difference: OptimizerDifference) -> list[float]:
    """By how much a setting is larger in the candidate; none if it is no one number."""
    try:
        return [float(difference.candidate) - float(difference.reference)]
    except ValueError:
        return []


def _is_proof(explained: Sequence[UpdateFit], examined: Sequence[UpdateFit]) -> bool:
    """Whether enough updates have the value, and enough elements: one always fits."""
    return (
        len(explained) >= _LEAST_SHARE * len(examined)
        and sum(fit.num_values for fit in explained) >= LEAST_ELEMENTS
    )


def _wrong_rate(
    findings: Findings, fits: Sequence[UpdateFit], factor: float
) -> Diagnosis | None:
    verdicts = _verdicts(findings, fits)
    step = fits[0].id.step
    rates = _learning_rates({v.id: v for v in findings.verdicts}, step)
    explains = rates is not None and math.isclose(
        rates[1], rates[0] * factor, rel_tol=1e-2
    )
    if findings.evidence.optimizer.settings and not explains:
        return None  # they may be why: the rules of the settings name them
    if rates is not None and explains:
        cause = f"the learning rate is {rates[1]:g}, and {rates[0]:g} in the reference"
    elif any(
        v.id.kind is Kind.LEARNING_RATE and v.result is not None
        for v in findings.verdicts
    ):
        cause = (
            "the recorded learning rates do not explain it, so look at what else "
            "multiplies the whole update"
        )
    else:
        cause = "look at the learning rate, which was not recorded in both runs"
    return Diagnosis(
        code="scaled_update",
        sentence=f"{_updates(len(fits))} {factor:.4g} times the reference's while "
        f"their gradients agree: {cause}",
        evidence={"factor": factor},
        tensor_ids=ids_of(verdicts),
    )


def _wrong_decay(
    findings: Findings, fits: Sequence[UpdateFit], decay: float
) -> Diagnosis:
    which = "more" if decay > 0 else "less"
    cause = "learning rate x weight decay"
    recorded = named_by_decay(findings)
    if recorded:
        cause += f" ({'; '.join(difference.sentence for difference in recorded)})"
    return Diagnosis(
        code="weight_decay",
        sentence=f"{tensors(len(fits))} lost {abs(decay):.3g} times the parameter "
        f"{which} in a step than the reference's while their gradients agree: "
        f"{cause} is another on {_names(fits)}",
        evidence={"learning_rate_x_weight_decay": decay},
        tensor_ids=ids_of(_verdicts(findings, fits)),
    )


def _wrong_decays(findings: Findings, more: float, less: float) -> Diagnosis:
    """Two groups of parameters, of which one is decayed more, the other less."""
    decayed = [
        fit for fit in findings.evidence.optimizer.updates if fit.decay is not None
    ]
    groups = _losing_more(decayed), _losing_less(decayed)
    is_swapped = math.isclose(more, -less, rel_tol=_LEAST_LIKENESS)
    how_much = "as much" if is_swapped else f"{-less:.3g} times the parameter"
    cause = (
        "two groups of parameters may have each other's weight decay"
        if is_swapped
        else "the weight decay of both is another"
    )
    return Diagnosis(
        code="weight_decay",
        sentence=f"{tensors(len(groups[0]))} ({_names(groups[0])}) lost {more:.3g} "
        f"times the parameter more in a step than the reference's, and "
        f"{len(groups[1])} ({_names(groups[1])}) {how_much} less, while their "
        f"gradients agree: learning rate x weight decay is another on either, so that "
        f"{cause}. Look at which parameters are put into which group of the optimizer",
        evidence={
            "learning_rate_x_weight_decay": more,
            "learning_rate_x_weight_decay_of_others": less,
        },
        tensor_ids=ids_of(_verdicts(findings, [*groups[0], *groups[1]])),
    )


def _names(fits: Sequence[UpdateFit]) -> str:
    names = sorted({_name(fit) for fit in fits})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _name(fit: UpdateFit) -> str:
    name = f"{fit.id.module}/{fit.id.slot}"
    return f"{name}, its part {' and '.join(fit.parts)}" if fit.parts else name


def _verdicts(findings: Findings, fits: Sequence[UpdateFit]) -> list[TensorVerdict]:
    ids = {fit.id for fit in fits}
    return [verdict for verdict in findings.failed if verdict.id in ids]


def _updates(number: int) -> str:
    return (
        "the update of 1 parameter is"
        if number == 1
        else (f"the updates of {number} parameters are")
    )


def _learning_rates(
    verdicts: Mapping[TensorId, TensorVerdict], step: int
) -> tuple[float, float] | None:
    """The first learning rate of a step that differs, of both runs; None if none."""
    for verdict in verdicts.values():
        if verdict.id.kind is Kind.LEARNING_RATE and verdict.id.step == step:
            result = verdict.result
            if result is not None and verdict.cause is Cause.ERROR:
                stats = result.stats
                return stats.max_abs_reference, stats.max_abs_candidate
    return None
