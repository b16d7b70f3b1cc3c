"""Tensors that are a constant times the reference."""

import math
from collections import Counter
from collections.abc import Sequence

from ttrace.ir.kinds import KINDS, Kind, Phase
from ttrace.judge.diagnosis import (
    LEAST_ELEMENTS,
    Diagnosis,
    Findings,
    ids_of,
    kinds_of,
    tensors,
)
from ttrace.judge.rules.clipping import clipping
from ttrace.judge.rules.loss_scale import scale_of_loss
from ttrace.judge.runs.run_numbers import number_sentence
from ttrace.judge.verdicts.factors import factor_text, rounded_factor
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_BACKWARD = frozenset({Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD})

_OF_OPTIMIZERS = frozenset(
    {Kind.CLIPPED_GRAD, Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM}
)
"""What follows from gradients."""

_COSINE_SLACK = 1e-6
"""How far the cosine of a scaled tensor may be from 1 (or from -1)."""

_MOST_UNEXPLAINED = 1e-3
"""Of the norm of the error, that the factor need not explain."""

_MOST_TRIED = 3
"""Factors that are tried, of those that tensors are near to."""

_COARSEST = 0.25
"""Relative tolerance, beyond which a multiple is not told from something else."""

_REST = 0.25
"""Of the tolerance, what may be left beside a multiple."""

_FAR = 3.0
"""Times the tolerance, by which a factor of coarse values differs from 1."""

_LEAST_SHARE = 0.5
"""Of the tensors of the first step that fail, unless the first one is among them."""


def scaled(findings: Findings) -> Diagnosis | None:
    """Names the most frequent factor, where it explains what failed.

    It does if most of the tensors that fail in the first step have it; what later steps
    make of that are multiples of nothing. Else the one that the first of them has:
    behind a wrong clip factor, a few tensors of an optimizer's state are multiples of
    the reference's by consequence.
    """
    if (
        scale_of_loss(findings) is not None
        or findings.evidence.optimizer.unscaled is not None
    ):
        return None  # another rule has told it
    step = min((verdict.id.step for verdict in findings.failed), default=0)

    def num_in_step(verdicts: Sequence[TensorVerdict]) -> int:
        return sum(verdict.id.step == step for verdict in verdicts)

    found = _by_factor(findings.failed, step)
    found = {f: vs for f, vs in found.items() if _num_elements(vs) >= LEAST_ELEMENTS}
    if not found:
        return None
    factor = max(found, key=lambda f: (num_in_step(found[f]), len(found[f])))
    verdicts = found[factor]
    if num_in_step(verdicts) < _LEAST_SHARE * num_in_step(findings.failed):
        of_first = [f for f, vs in found.items() if vs[0] is findings.failed[0]]
        if not of_first:
            return None
        factor = of_first[0]
        verdicts = found[factor]
    first = findings.failed[0]
    if all(verdict.id.kind in _OF_OPTIMIZERS for verdict in verdicts) and (
        first.id.kind not in _OF_OPTIMIZERS or clipping(findings) is not None
    ):
        return None  # a norm of gradients makes them so, as is told or is wrong itself
    are = "are" if len(verdicts) > 1 else "is"
    shared = findings.evidence.runs.shared_samples
    if shared is not None and shared.microbatches:
        why = ""  # a share of more micro-batches is less
    else:
        numbers = findings.evidence.runs.numbers
        if _is_of_module(verdicts[0]):
            numbers = tuple(number for number in numbers if not number.of_samples)
        why = _taken_out(verdicts, findings) or number_sentence(factor, numbers)
    return Diagnosis(
        code="scaled",
        sentence=f"{tensors(len(verdicts))} ({kinds_of(verdicts)}) {are} "
        f"{factor_text(factor)} times the reference{why}",
        evidence={"factor": factor},
        tensor_ids=ids_of(verdicts),
    )


def _is_of_module(verdict: TensorVerdict) -> bool:
    """Whether it is of a forward, and no number such as a loss."""
    return (
        KINDS[verdict.id.kind].phase is Phase.FORWARD
        and verdict.result is not None
        and verdict.result.stats.count > 1
    )


def _by_factor(
    failed: Sequence[TensorVerdict], step: int
) -> dict[float, list[TensorVerdict]]:
    """The tensors that are a multiple of the reference's, by the factor (three digits).

    Of tensors that one factor, the same to the last digit, explains: a few digits in
    common are what tensors that lost a thousandth of themselves have anyhow. Only of
    the factors that the most tensors are near to, and that of the first one.

    Args:
        failed: In order of the dataflow.
        step: The first one in which any failed.
    """
    multiples: list[TensorVerdict] = []
    near: dict[float, list[float]] = {}
    weights: Counter[float] = Counter()
    for verdict in failed:
        ratio = _ratio(verdict)
        if ratio is None:
            continue
        multiples.append(verdict)
        factor = rounded_factor(ratio)
        near.setdefault(factor, []).append(ratio)
        weights[factor] += len(failed) if verdict.id.step == step else 1
    tried = [factor for factor, _ in weights.most_common() if factor != 1]
    of_first = [rounded_factor(r) for r in map(_ratio, failed[:1]) if r is not None]
    found: dict[float, list[TensorVerdict]] = {}
    for factor in (*tried[:_MOST_TRIED], *of_first):
        if factor == 1 or factor in found:
            continue
        ratios = near[factor]
        middle = sorted(ratios)[len(ratios) // 2]
        explained = [
            [verdict for verdict in multiples if _is_explained(verdict, exact)]
            for exact in dict.fromkeys((_exact(middle), _exact(ratios[0])))
        ]
        if largest := max(explained, key=len):
            found[factor] = largest
    return found


def _ratio(verdict: TensorVerdict) -> float | None:
    """The multiple of the reference that a tensor is nearest to; None if to none."""
    if verdict.result is None or verdict.margin is None or verdict.margin <= 1:
        return None
    stats = verdict.result.stats
    if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
        return None
    if stats.count < 2 or not _is_multiple(verdict):
        return None
    return stats.cosine * stats.candidate_norm / stats.reference_norm


def _exact(ratio: float) -> float:
    """The power of two that a measured factor is, or itself."""
    rounded = rounded_factor(ratio)
    return rounded if math.frexp(rounded)[0] in (0.5, -0.5) else ratio


def _is_explained(verdict: TensorVerdict, factor: float) -> bool:
    """Whether so many times the reference leaves next to nothing of the error.

    No more than is tolerated of such a multiple, or a thousandth of the error and of
    the tensor itself, which is less than the error where the factor is small.
    """
    assert verdict.result is not None and verdict.tolerance is not None
    stats = verdict.result.stats
    along = stats.cosine * stats.candidate_norm - factor * stats.reference_norm
    across = math.sqrt(max(0.0, 1 - stats.cosine**2)) * stats.candidate_norm
    smaller = min(stats.difference_norm, stats.candidate_norm)
    limit = max(
        abs(factor) * verdict.tolerance.difference_norm, _MOST_UNEXPLAINED * smaller
    )
    return math.hypot(along, across) <= limit < stats.difference_norm


def _is_multiple(verdict: TensorVerdict) -> bool:
    """Whether it is one, but for rounding; where that is coarse, far from once."""
    assert verdict.result is not None
    stats = verdict.result.stats
    if abs(stats.cosine) >= 1 - _COSINE_SLACK:
        return True
    if verdict.tolerance is None or not stats.reference_norm:
        return False
    tolerated = verdict.tolerance.relative_to(stats.reference_norm)
    rest = math.sqrt(max(0.0, 1 - stats.cosine**2))
    factor = math.copysign(stats.candidate_norm / stats.reference_norm, stats.cosine)
    return (
        tolerated <= _COARSEST
        and rest <= _REST * tolerated
        and abs(factor - 1) > _FAR * tolerated
    )


def _taken_out(scaled: Sequence[TensorVerdict], findings: Findings) -> str:
    """That the factor is on the backward alone: what the optimizer is given agrees."""
    step = findings.failed[0].id.step
    known = {verdict.id for verdict in scaled}
    backward = [v for v in findings.failed if v.id.step == step]
    given = [
        verdict
        for verdict in findings.verdicts
        if verdict.id.step == step
        and verdict.id.kind is Kind.MAIN_GRAD
        and verdict.status is not Status.SKIPPED
    ]
    is_whole = all(v.id in known and v.id.kind in _OF_BACKWARD for v in backward)
    if not given or not is_whole or any(v.status is not Status.PASSED for v in given):
        return ""
    return (
        f". In step {step} that is all that differs, and its {len(given)} main_grad "
        "agree: the factor is taken out again before the optimizer steps, as where a "
        "script scales its loss by hand (a GradScaler's scale is known). If that is "
        "meant, compare what the optimizer is given: --kinds "
        "main_grad,clipped_grad,updated_param"
    )


def _num_elements(verdicts: Sequence[TensorVerdict]) -> int:
    return sum(v.result.stats.count for v in verdicts if v.result is not None)
