"""Updates that are wrong while the gradients agree: which hyper-parameter it may be."""

import math
from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.optimizer_settings import parse_setting_key
from ttrace.judge.diagnosis import LEAST_ELEMENTS, Diagnosis, Findings, ids_of, tensors
from ttrace.judge.optimizers.learning_rates import differing_rates
from ttrace.judge.optimizers.update_fit import UpdateFit, common_value, is_update
from ttrace.judge.reading.failures import examined_text
from ttrace.judge.runs.rank_names import placed_ranks_text
from ttrace.judge.settings.optimizer_settings import OptimizerDifference
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LEAST_SHARE = 0.5
"""Of the examined updates, that one value must explain."""

_LEAST_LIKENESS = 1e-2
"""Relative, of a decay to what recorded settings give."""

_BY_NORM = "global norm"
"""In a setting of clipping, that the limit is on the norm of all gradients."""


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
    cause = _wrong_rates(findings, fits, factor)
    if findings.evidence.optimizer.settings and cause is None:
        return None  # they may be why: the rules of the settings name them
    if cause is None and _may_be_the_norm(findings, fits):
        return None
    if cause is None and any(
        v.id.kind is Kind.LEARNING_RATE and v.result is not None
        for v in findings.verdicts
    ):
        cause = (
            "the recorded learning rates do not explain it, so look at what else "
            "multiplies the whole update"
        )
    elif cause is None:
        cause = "look at the learning rate, which was not recorded in both runs"
    return Diagnosis(
        code="scaled_update",
        sentence=f"{_updates(findings, len(fits))} {factor:.4g} times the "
        f"reference's while their gradients agree: {cause}",
        evidence={"factor": factor},
        tensor_ids=ids_of(verdicts),
    )


def _may_be_the_norm(findings: Findings, fits: Sequence[UpdateFit]) -> bool:
    """Whether all may be clipped by another norm, as gradients of others are wrong.

    Not where what was left of their own was recorded: that agrees.
    """
    step = fits[0].id.step
    clips = any(
        parsed is not None and parsed[1] == "clipping" and _BY_NORM in str(value)
        for name, value in findings.candidate.ranks[0].settings.items()
        for parsed in (parse_setting_key(name),)
    )
    of_step = [verdict for verdict in findings.verdicts if verdict.id.step == step]
    is_seen = any(
        v.id.kind is Kind.CLIPPED_GRAD and v.status is Status.PASSED for v in of_step
    )
    return (
        clips
        and not is_seen
        and any(
            verdict.id.kind in (Kind.PARAM_GRAD, Kind.MAIN_GRAD)
            and verdict.status in (Status.FAILED, Status.UNMATCHED)
            for verdict in of_step
        )
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
        sentence=f"{tensors(len(fits))}{_examined(findings)} lost {abs(decay):.3g} "
        f"times the parameter {which} in a step than the reference's while their "
        f"gradients agree: {cause} is another on {_names(fits)}",
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
        f"{len(groups[1])} ({_names(groups[1])}) {how_much} less"
        f"{_examined(findings)}, while their "
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


def _updates(findings: Findings, number: int) -> str:
    examined = _examined(findings)
    if number == 1:
        return f"the update of 1 parameter{examined} is"
    return f"the updates of {number} parameters{examined} are"


def _examined(findings: Findings) -> str:
    return examined_text(findings.verdicts, is_update)


def _wrong_rates(
    findings: Findings, fits: Sequence[UpdateFit], factor: float
) -> str | None:
    """The learning rates that give the factor, in words; None if none do.

    Those of the ranks that hold these parameters: stages of a pipeline have optimizers
    of their own.
    """
    info = findings.candidate
    holders = {
        shard.rank
        for fit in fits
        if fit.id in info.tensors
        for shard in info.tensors[fit.id].shards
    }
    for rates in differing_rates(findings.verdicts, fits[0].id.step):
        ours = [rates.candidate[rank] for rank in holders if rank in rates.candidate]
        if not ours or not all(
            math.isclose(rate, rates.reference * factor, rel_tol=_LEAST_LIKENESS)
            for rate in ours
        ):
            continue
        ranks = [rank for rank, rate in rates.candidate.items() if rate == ours[0]]
        where = ""
        if len(ranks) < len(rates.candidate):
            where = f" on {placed_ranks_text(ranks, rates.mesh, info)}"
        return (
            f"the learning rate is {ours[0]:g}{where}, and {rates.reference:g} in the "
            "reference"
        )
    return None
