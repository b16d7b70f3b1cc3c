"""A gradient that goes wrong within one module, whose forward agrees."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.own_parameters import own_parameters
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_BACKWARD = frozenset({Kind.GRAD_INPUT, Kind.PARAM_GRAD})


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardInside:
    """A gradient that a module makes, wrong behind one that it is given and agrees.

    Attributes:
        id: The gradient.
        given: Gradients of the module's outputs, all of which agree.
        weight: The module's weight, where the error is what that makes of another
            gradient of its product; None where it is not, or that is no narrow place.
        num_rows: Of that weight.
    """

    id: TensorId
    given: tuple[TensorId, ...]
    weight: TensorId | None = None
    num_rows: int = 0


def find_backward_inside(
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
) -> BackwardInside | None:
    """Looks whether a module is given what agrees, and makes a wrong gradient of it.

    Args:
        values: Of the first divergence.
        verdicts: On all tensors.
        reference: The trusted run.
    """
    if values is None or values.id.kind not in _OF_BACKWARD:
        return None
    id_ = values.id
    if id_.module == ROOT_MODULE or id_.microbatch is None:
        return None
    given: list[TensorId] = []
    num_outputs = 0
    for verdict in verdicts:
        other = verdict.id
        if other != replace(id_, kind=other.kind, slot=other.slot, pass_=other.pass_):
            continue
        if other.kind in (Kind.INPUT, Kind.OUTPUT, Kind.GRAD_OUTPUT):
            if verdict.status in (Status.FAILED, Status.UNMATCHED):
                return None
            agrees = verdict.status is Status.PASSED and not verdict.noise_dominated
            num_outputs += agrees and other.kind is Kind.OUTPUT
            if agrees and other.kind is Kind.GRAD_OUTPUT:
                given.append(other)
    if not given or not num_outputs:
        return None
    weight, num_rows = _weight_behind(values, reference)
    return BackwardInside(id=id_, given=tuple(given), weight=weight, num_rows=num_rows)


def _weight_behind(
    values: DivergedValues, reference: TraceSource
) -> tuple[TensorId | None, int]:
    """The weight, of fewer rows than features, that makes the error; and its rows."""
    if values.id.kind is not Kind.GRAD_INPUT:
        return None, 0
    for record in own_parameters(values.id, reference.info).values():
        shape = record.global_shape
        if len(shape) != 2 or values.theirs.ndim < 2:
            continue
        weight = values_of(record.id, reference)
        if weight is None:
            continue
        for rows in (weight, weight.T):
            if rows.shape[1] != values.theirs.shape[-1] or len(rows) >= rows.shape[1]:
                continue
            error = values.difference.reshape(-1, rows.shape[1])
            factors, *_ = np.linalg.lstsq(rows.T, error.T, rcond=None)
            rest = float(np.linalg.norm(error.T - rows.T @ factors))
            if rest <= values.limit:
                return record.id, len(rows)
    return None, 0
