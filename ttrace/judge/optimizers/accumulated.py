"""Gradients that hold the candidate's own of the step before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import KINDS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.optimizers.update_fit import is_explained, projection
from ttrace.judge.reading.failures import failed_by_values, first_failed
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
            they were clipped; ``param_grad`` if only ``later``.
        factor: How many times that.
        norm: What the recorded norm of the step before is then; None where none was
            recorded.
        later: Micro-batches of the step before whose backward added to them once the
            optimizer was given them, if they hold that.
    """

    ids: tuple[TensorId, ...]
    kind: Kind
    factor: float = 1.0
    norm: float | None = None
    later: tuple[int, ...] = ()


_HELD = (
    ((Kind.MAIN_GRAD,), False),
    ((Kind.CLIPPED_GRAD,), False),
    ((), True),
    ((Kind.MAIN_GRAD,), True),
    ((Kind.CLIPPED_GRAD,), True),
)
"""What gradients may hold of the step before, and whether with what came later; the
simplest first."""


def find_accumulated(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> Accumulated | None:
    """Looks whether all gradients of the first step with failed ones hold older ones.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
    """
    failed = first_failed(
        _until_run_on(verdicts), lambda id_: id_.kind is Kind.MAIN_GRAD
    )
    ids = tuple(verdict.id for verdict in failed)
    if not ids or not ids[0].step:
        return None
    later = _later(ids, candidate)
    found: list[tuple[float, Kind, bool]] = []
    for kinds, with_later in _HELD:
        if with_later and not any(later.values()):
            continue
        added = later if with_later else {}
        factor = _common_factor(ids, kinds, added, reference, candidate)
        if factor is not None:
            kind = kinds[0] if kinds else Kind.PARAM_GRAD
            found.append((factor, kind, with_later))
    if not found:
        return None
    factor, kind, with_later = min(found, key=lambda each: each[0] != 1)
    norm = None if with_later else _norm_before(ids[0], candidate)
    numbers = {id_.microbatch or 0 for added in later.values() for id_ in added}
    return Accumulated(
        ids=ids,
        kind=kind,
        factor=factor,
        norm=None if norm is None else norm * factor,
        later=tuple(sorted(numbers)) if with_later else (),
    )


def _until_run_on(verdicts: Sequence[TensorVerdict]) -> Sequence[TensorVerdict]:
    """Those before a micro-batch that runs on what wrong gradients updated."""
    step: int | None = None
    for place, verdict in enumerate(verdicts):
        if not failed_by_values(verdict):
            continue
        if verdict.id.kind is Kind.MAIN_GRAD:
            step = verdict.id.step
        elif verdict.id.step == step and KINDS[verdict.id.kind].per_microbatch:
            return verdicts[:place]
    return verdicts


def _later(
    ids: Sequence[TensorId], candidate: TraceSource
) -> dict[TensorId, list[TensorId]]:
    """What backward added in the step before, after the optimizer was given the sum."""
    places = {id_: place for place, id_ in enumerate(candidate.info.tensors)}
    names = {(id_.module, id_.slot): id_ for id_ in ids}
    found: dict[TensorId, list[TensorId]] = {id_: [] for id_ in ids}
    for other, place in places.items():
        gradient = names.get((other.module, other.slot))
        if gradient is None or other.kind is not Kind.PARAM_GRAD:
            continue
        given = places.get(replace(gradient, step=gradient.step - 1), place)
        if other.step == gradient.step - 1 and place > given:
            found[gradient].append(other)
    return found


def _before(
    id_: TensorId,
    kinds: Sequence[Kind],
    later: Sequence[TensorId],
    candidate: TraceSource,
) -> np.ndarray | None:
    """The sum of what a gradient may hold of the step before; None if not all is known.

    ``[elements]``.
    """
    asked = [replace(id_, step=id_.step - 1, kind=kind) for kind in kinds]
    parts = [flat_values(each, candidate) for each in (*asked, *later)]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or len({p.size for p in known}) > 1:
        return None
    return np.add.reduce(known)


def _common_factor(
    ids: Sequence[TensorId],
    kinds: Sequence[Kind],
    later: Mapping[TensorId, Sequence[TensorId]],
    reference: TraceSource,
    candidate: TraceSource,
) -> float | None:
    """How many times what it had the candidate has more, in all gradients alike.

    Its gradients themselves, or what clipping in place had made of them.
    """
    factors: list[float] = []
    largest = 0
    for id_ in ids:
        before = _before(id_, kinds, later.get(id_, ()), candidate)
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
