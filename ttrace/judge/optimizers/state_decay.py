"""Moments of an optimizer that hold a share of the parameter more, or less.

Weight decay that is added to the gradient (L2) goes through momentum and moments; one
that is decoupled does not. Where the one is taken for the other, the first moments
differ by a multiple of the parameter, while the gradients agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.updates import parameter_before
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOST_LEFT = 0.05
"""Of the difference, what a multiple of the parameter need not explain."""

_LEAST_ELEMENTS = 8
"""Of one element, a multiple always fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDecay:
    """A state that differs by a multiple of its parameter.

    Attributes:
        id: The state.
        share: How many times the parameter the candidate's has more.
    """

    id: TensorId
    share: float


def find_state_decays(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> tuple[StateDecay, ...]:
    """Those of the first step in which states of an optimizer fail, if all are.

    Args:
        verdicts: On all tensors.
        reference: The trusted run; what failed is read.
        candidate: The run under test.
    """
    passed = {v.id for v in verdicts if v.status is Status.PASSED}
    found = []
    for verdict in first_failed(verdicts, is_state):
        state = verdict.id
        slot = (state.slot or "").rpartition(".")[0]
        updated = replace(state, kind=Kind.UPDATED_PARAM, slot=slot or None)
        if replace(updated, kind=Kind.MAIN_GRAD) not in passed:
            continue
        record = parameter_before(updated, reference.info)
        if record is None or record.id not in passed:
            continue  # another parameter decays by another amount
        share = _share(
            values_of(state, candidate),
            values_of(state, reference),
            values_of(record.id, reference),
        )
        if share is None:
            return ()  # something else is wrong, of which the parameter may be a part
        if share:
            found.append(StateDecay(id=state, share=share))
    return tuple(found)


def is_state(id_: TensorId) -> bool:
    """Whether it is one of the tensors of which the first failed ones are read."""
    return id_.kind is Kind.OPTIMIZER_STATE


def _share(
    ours: np.ndarray | None, theirs: np.ndarray | None, parameter: np.ndarray | None
) -> float | None:
    """What of the parameter is the difference of two states; None if it is none.

    Zero where that cannot be told.
    """
    if ours is None or theirs is None or parameter is None:
        return 0.0
    if not ours.shape == theirs.shape == parameter.shape:
        return 0.0
    if ours.size < _LEAST_ELEMENTS or not np.ptp(parameter):
        return 0.0
    difference = ours - theirs
    share = float((difference * parameter).sum() / (parameter * parameter).sum())
    left = np.linalg.norm(difference - share * parameter)
    return share if left <= _MOST_LEFT * np.linalg.norm(difference) else None
