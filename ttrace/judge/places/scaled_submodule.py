"""An output that is wrong by a multiple of what a module inside of it returned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LEAST_ELEMENTS = 16

_MOST_UNEXPLAINED = 1e-3
"""Of the norm of the error, that the output inside need not explain."""

_MOST_INSIDE = 32
"""Outputs inside that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledSubmodule:
    """An output that is the reference's plus a multiple of an output inside of it.

    Attributes:
        id: The output.
        inside: The output of a module inside, which agrees.
        times: How many times it the difference is.
        reference: What the reference multiplies it by, where its own output is a sum of
            multiples of outputs inside; None where it is not.
    """

    id: TensorId
    inside: TensorId
    times: float
    reference: float | None


def find_scaled_submodule(
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
) -> ScaledSubmodule | None:
    """Looks whether a failed output differs by one output inside, and nothing else.

    Args:
        values: Of the first divergence.
        verdicts: On all tensors.
        reference: The trusted run.
    """
    if values is None or values.id.kind is not Kind.OUTPUT:
        return None
    if values.ours.size < _LEAST_ELEMENTS:
        return None
    theirs = values.theirs
    inside = _inside(values.id, verdicts, reference, theirs.shape)
    for id_, inner in inside.items():
        times = float((values.difference * inner).sum() / np.square(inner).sum())
        if values.is_explained(theirs + times * inner):
            return ScaledSubmodule(
                id=values.id,
                inside=id_,
                times=times,
                reference=_scale(theirs, inside, id_),
            )
    return None


def _inside(
    output: TensorId,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    shape: tuple[int, ...],
) -> Mapping[TensorId, np.ndarray]:
    """Outputs of modules inside that agree, of the output's shape; the outermost."""
    within = "" if output.module == ROOT_MODULE else f"{output.module}."
    found: dict[TensorId, np.ndarray] = {}
    for verdict in verdicts:
        id_ = verdict.id
        if (
            verdict.status is not Status.PASSED
            or replace(id_, module=output.module, slot=output.slot) != output
            or id_.module in (output.module, ROOT_MODULE)
            or not id_.module.startswith(within)
        ):
            continue
        values = values_of(id_, reference)
        if values is None or values.shape != shape or not values.any():
            continue
        found[id_] = values
        if len(found) == _MOST_INSIDE:
            break
    return found


def _scale(
    output: np.ndarray, inside: Mapping[TensorId, np.ndarray], id_: TensorId
) -> float | None:
    """What the output multiplies it by, as a sum of multiples; None if it is none."""
    basis = np.stack([values.reshape(-1) for values in inside.values()], axis=1)
    values = output.reshape(-1)
    factors, _, rank, _ = np.linalg.lstsq(basis, values, rcond=None)
    rest = float(np.linalg.norm(values - basis @ factors))
    if rank < basis.shape[1] or rest > _MOST_UNEXPLAINED * np.linalg.norm(values):
        return None
    return float(factors[list(inside).index(id_)])
