"""Gradients that hold the candidate's own of the step before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.optimizers.update_fit import is_explained, projection
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.reading.values import flat_values
from ttrace.judge.verdicts.verdict import TensorVerdict

_SAME = 1e-3
"""Relative difference of factors that are one and the same."""

_LEAST_ELEMENTS = 8
"""Of one element, each gradient is the sum of two others, with some factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulated:
    """Gradients of a step that are the reference's, and some of the step before.

    Attributes:
        ids: They; all that were read.
        kind: What the candidate had in the step before: its gradients before or after
            they were clipped.
        factor: How many times that.
        norm: What the recorded norm of the step before is then; None where none was
            recorded.
    """

    ids: tuple[TensorId, ...]
    kind: Kind
    factor: float = 1.0
    norm: float | None = None


def find_accumulated(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> Accumulated | None:
    """Looks whether all gradients of the first step with failed ones hold older ones.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
    """
    failed = first_failed(verdicts, lambda id_: id_.kind is Kind.MAIN_GRAD)
    ids = tuple(verdict.id for verdict in failed)
    if not ids or not ids[0].step:
        return None
    found: dict[Kind, float] = {}
    for kind in (Kind.MAIN_GRAD, Kind.CLIPPED_GRAD):
        factor = _common_factor(ids, kind, reference, candidate)
        if factor is not None:
            found[kind] = factor
    if not found:
        return None
    kind = min(found, key=lambda kind: found[kind] != 1)
    norm = _norm_before(ids[0], candidate)
    return Accumulated(
        ids=ids,
        kind=kind,
        factor=found[kind],
        norm=None if norm is None else norm * found[kind],
    )


def _common_factor(
    ids: Sequence[TensorId], kind: Kind, reference: TraceSource, candidate: TraceSource
) -> float | None:
    """How many times what it had the candidate has more, in all gradients alike.

    Its gradients themselves, or what clipping in place had made of them.
    """
    factors: list[float] = []
    largest = 0
    for id_ in ids:
        before = flat_values(replace(id_, step=id_.step - 1, kind=kind), candidate)
        ours, theirs = flat_values(id_, candidate), flat_values(id_, reference)
        if before is None or ours is None or theirs is None or not before.any():
            return None
        if not ours.size == theirs.size == before.size:
            return None
        difference = ours - theirs
        if is_explained(difference, before):
            factor: float | None = 1.0
        else:
            factor = projection(difference, before)
        if not factor or not is_explained(difference, factor * before):
            return None
        factors.append(factor)
        largest = max(largest, before.size)
    if all(factor == 1 for factor in factors):
        return 1.0
    if largest < _LEAST_ELEMENTS or factors[0] <= 0:
        return None
    is_one = all(math.isclose(f, factors[0], rel_tol=_SAME) for f in factors)
    return factors[0] if is_one else None


def _norm_before(gradient: TensorId, candidate: TraceSource) -> float | None:
    for id_ in candidate.info.tensors:
        if id_.kind is Kind.GRAD_NORM and id_.step == gradient.step - 1:
            values = flat_values(id_, candidate)
            return float(values[0]) if values is not None and values.size == 1 else None
    return None
