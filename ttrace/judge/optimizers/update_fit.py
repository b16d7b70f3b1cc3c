"""What of the usual hyper-parameters explains an update whose gradient agrees."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.reading.values import flat_values
from ttrace.judge.verdicts.updates import parameter_before
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_CONSTANT = 1e-3
"""Spread of values, over the largest of them, that are all the same."""

_LEAST_EXPLAINED = 0.95
"""Of the norm of a difference, that must be explained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFit:
    """What explains the wrong update of a parameter whose gradient agrees.

    Attributes:
        id: The updated parameter.
        factor: The update is so many times the reference's; None if it is not.
        decay: It is the reference's, less so many times the parameter; None if not.
        num_values: Elements that speak for it: 1 if all change by the same.
        parts: Names of the parts that it is about; empty for the whole parameter.
    """

    id: TensorId
    num_values: int
    factor: float | None = None
    decay: float | None = None
    parts: tuple[str, ...] = ()


def fit_updates(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> tuple[UpdateFit, ...]:
    """What explains updates, or that nothing does, of those that were read.

    In the first step in which updates failed though their gradients agree.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
    """
    by_id = {verdict.id: verdict for verdict in verdicts}
    failed = first_failed(verdicts, is_update)
    fits = [
        explained(_fit, None, verdict, reference, candidate)
        for verdict in failed
        if _is_given_the_same(verdict.id, by_id) and _is_one_update(verdict)
    ]
    return tuple(fit for fit in fits if fit is not None)


def is_update(id_: TensorId) -> bool:
    """Whether it is one of the tensors of which the first failed ones are read."""
    return id_.kind is Kind.UPDATED_PARAM


def _is_one_update(verdict: TensorVerdict) -> bool:
    """Whether all ranks that have it made the same of it; what is read is one's."""
    return verdict.result is None or all(
        replica.is_exact for replica in verdict.result.candidate_replicas
    )


def _is_given_the_same(
    updated: TensorId, by_id: Mapping[TensorId, TensorVerdict]
) -> bool:
    """Whether the gradient of a parameter agrees, and is clipped alike if it is."""
    gradient = by_id.get(replace(updated, kind=Kind.MAIN_GRAD))
    clipped = by_id.get(replace(updated, kind=Kind.CLIPPED_GRAD))
    return (
        gradient is not None
        and gradient.status is Status.PASSED
        and (clipped is None or clipped.status in (Status.PASSED, Status.SKIPPED))
    )


def _fit(
    verdict: TensorVerdict, reference: TraceSource, candidate: TraceSource
) -> UpdateFit | None:
    """What of the usual hyper-parameters explains an update; None if it is not known.

    Of a tensor that was not read. Where it failed by parts of it, of these.
    """
    updated = verdict.id
    ours, theirs = flat_values(updated, candidate), flat_values(updated, reference)
    record = parameter_before(updated, reference.info)
    start = None if record is None else flat_values(record.id, reference)
    if ours is None or theirs is None or start is None:
        return None
    parts = tuple(failed.figures.name for failed in verdict.failed_parts)
    if parts:
        assert verdict.result is not None
        shape = verdict.result.plan.match.reference.global_shape
        is_in = np.zeros(shape, bool)
        for failed in verdict.failed_parts:
            np.moveaxis(is_in, failed.part.dim, 0)[failed.part.indices] = True
        if not is_in.size == ours.size == theirs.size == start.size:
            return None
        ours, theirs, start = (v[is_in.reshape(-1)] for v in (ours, theirs, start))
    difference, update = ours - theirs, theirs - start
    factor, decay = projection(difference, update), projection(difference, start)
    fit = UpdateFit(id=updated, num_values=difference.size, parts=parts)
    if factor is not None and is_explained(difference, factor * update):
        return replace(fit, num_values=_num_values(update), factor=1 + factor)
    if decay is not None and is_explained(difference, decay * start):
        return replace(fit, decay=-decay)
    return fit


def _num_values(values: np.ndarray) -> int:
    """Elements, of which those of one value count as one: a multiple always fits it."""
    spread = float(np.ptp(values)) if values.size else 0.0
    is_constant = spread <= _CONSTANT * float(np.abs(values).max(initial=0.0))
    return 1 if is_constant else values.size


def projection(values: np.ndarray, direction: np.ndarray) -> float | None:
    """How many times a direction comes nearest to values; None where it is zero."""
    square = float((direction * direction).sum())
    return float((values * direction).sum()) / square if square else None


def is_explained(difference: np.ndarray, explanation: np.ndarray) -> bool:
    """Whether hardly anything of a difference is left without its explanation."""
    rest = float(np.linalg.norm(difference - explanation))
    return rest <= (1 - _LEAST_EXPLAINED) * float(np.linalg.norm(difference))


def common_value(values: Sequence[float]) -> float | None:
    """What several figures have in common to three digits; None if nothing."""
    if not values:
        return None
    middle = sorted(values)[len(values) // 2]
    close = [v for v in values if math.isclose(v, middle, rel_tol=1e-2)]
    return middle if len(close) == len(values) else None
