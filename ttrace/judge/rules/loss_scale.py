"""A loss that is scaled before the backward, and gradients unscaled behind it."""

import math
from collections.abc import Iterable, Sequence

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LIKENESS = 1e-2
"""Relative, of the factors of single tensors: those of a coarser dtype are rounded."""

_LEAST_COSINE = 0.99

_LEAST_SCALE = 1.5

_LEAST_SHARE = 0.5
"""Of the gradients of the first step, that must have the factor."""


def loss_scale(findings: Findings) -> Diagnosis | None:
    """Says that a factor of the loss is taken out again before the update.

    Of JAX: the scalers of torch are known to its frontend. Only where what optimizers
    are given agrees, or is wrong by no such factor, in the first step.
    """
    factor = scale_of_loss(findings)
    if factor is None:
        return None
    step = min(verdict.id.step for verdict in findings.verdicts)
    scaled = [
        verdict
        for verdict in findings.failed
        if verdict.id.kind in (Kind.LOSS, Kind.PARAM_GRAD)
        and verdict.id.step == step
        and _has(verdict, factor)
    ]
    num_grads = sum(verdict.id.kind is Kind.PARAM_GRAD for verdict in scaled)
    is_of_candidate = factor > 1
    run = "candidate" if is_of_candidate else "reference"
    scale = factor if is_of_candidate else 1 / factor
    return Diagnosis(
        code="loss_scale",
        sentence=f"the loss and {num_grads} param_grad are {factor:.4g} times the "
        f"reference's in step {step}, and main_grad is not: the {run} scales its loss, "
        "and its gradients back before the update. For a scale that is meant, say "
        f"jax_capture.trace(step, loss_scale={scale:.4g}) in the {run}: they are then "
        "compared without it",
        evidence={"factor": factor},
        tensor_ids=ids_of(scaled),
    )


def scale_of_loss(findings: Findings) -> float | None:
    """The factor of the loss and its gradients, where main gradients lack it."""
    if findings.candidate.ranks[0].framework != "jax" or not findings.verdicts:
        return None
    step = min(verdict.id.step for verdict in findings.verdicts)
    of_step = [verdict for verdict in findings.verdicts if verdict.id.step == step]
    factors = [_factor(v) for v in _of(of_step, Kind.LOSS)]
    factor = factors[0] if factors else None
    if factor is None or 1 / _LEAST_SCALE < factor < _LEAST_SCALE:
        return None
    if not all(_has(v, factor) for v in _of(of_step, Kind.LOSS)):
        return None
    gradients, main = _of(of_step, Kind.PARAM_GRAD), _of(of_step, Kind.MAIN_GRAD)
    if not main or any(_has(verdict, factor) for verdict in main):
        return None
    if not any(v.status is Status.PASSED and not v.noise_dominated for v in main):
        return None
    having = [verdict for verdict in gradients if _has(verdict, factor)]
    enough = bool(having) and len(having) >= _LEAST_SHARE * len(gradients)
    return factor if enough else None


def _of(verdicts: Iterable[TensorVerdict], kind: Kind) -> Sequence[TensorVerdict]:
    return [v for v in verdicts if v.id.kind is kind and v.result is not None]


def _has(verdict: TensorVerdict, factor: float) -> bool:
    own = _factor(verdict)
    return own is not None and math.isclose(own, factor, rel_tol=_LIKENESS)


def _factor(verdict: TensorVerdict) -> float | None:
    """How many times the reference a tensor is; None where it is no multiple of it."""
    assert verdict.result is not None
    stats = verdict.result.stats
    if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
        return None
    if not stats.reference_norm or not stats.cosine > _LEAST_COSINE:
        return None
    return stats.candidate_norm / stats.reference_norm
