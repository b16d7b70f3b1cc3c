"""A weight in use that is not the one that was recorded: something wrote to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.own_parameters import own_parameters
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOST_FEATURES = 1024
_MOST_MICROBATCHES = 16

_MOST_OFF = 1e-4
"""Of the norm of outputs, what a weight need not give."""

_SMALL = 1e-3
"""Of the largest singular value of a difference of weights, that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedWeight:
    """A linear module that multiplies by another weight than the recorded one.

    Attributes:
        id: Its output, the first divergence.
        weight: What was recorded of its weight before the step; it agrees.
        step: The last step in which its outputs agreed.
        rank: Of the difference of the two weights.
        num_features: The most that this can be.
    """

    id: TensorId
    weight: TensorId
    step: int
    rank: int
    num_features: int


def find_changed_weight(
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> ChangedWeight | None:
    """Looks whether another weight explains all outputs of a module in a step.

    Args:
        values: Of the first divergence, an output of a step after the first.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    if values is None or values.id.kind is not Kind.OUTPUT or not values.id.step:
        return None
    id_ = values.id
    outputs = [v for v in verdicts if v.id == _at(id_, v.id)]
    earlier = [v for v in outputs if v.id.step == id_.step - 1]
    if not earlier or any(v.status is not Status.PASSED for v in earlier):
        return None
    agreeing = {v.id for v in verdicts if v.status is Status.PASSED}
    now = [v.id for v in outputs if v.id.step == id_.step][:_MOST_MICROBATCHES]
    inputs = [replace(each, kind=Kind.INPUT) for each in now]
    if not all(each in agreeing for each in inputs):
        return None
    given = _rows([values_of(each, reference) for each in inputs])
    ours = _rows([values_of(each, candidate) for each in now])
    theirs = _rows([values_of(each, reference) for each in now])
    if given is None or ours is None or theirs is None:
        return None
    if max(given.shape[1], ours.shape[1]) > _MOST_FEATURES:
        return None
    # A row of ones takes a bias in.
    given = np.concatenate((given, np.ones((len(given), 1))), axis=1)
    if len(given) < 2 * given.shape[1]:
        return None  # any outputs are what some weight makes of so few
    for record in _weights(id_, candidate.info):
        if record.global_shape not in (
            (ours.shape[1], given.shape[1] - 1),
            (given.shape[1] - 1, ours.shape[1]),
        ):
            continue
        of_reference, of_candidate = _fit(given, theirs), _fit(given, ours)
        if of_reference is None or of_candidate is None:
            return None
        weight = values_of(record.id, reference)
        in_use = of_reference[:-1]
        if weight is None or not any(
            np.linalg.norm(in_use - each) <= _SMALL * np.linalg.norm(each)
            for each in (weight, weight.T)
            if each.shape == in_use.shape
        ):
            continue
        sizes = np.linalg.svd(of_candidate[:-1] - in_use, compute_uv=False)
        return ChangedWeight(
            id=id_,
            weight=record.id,
            step=id_.step - 1,
            rank=int((sizes > _SMALL * sizes[0]).sum()),
            num_features=len(sizes),
        )
    return None


def _weights(id_: TensorId, info: TraceInfo) -> list[TensorRecord]:
    """What the module's parameters were last seen to be, also where none is trained."""
    found = dict(own_parameters(id_, info))
    for other, record in info.tensors.items():
        if other.kind is Kind.PARAM and other.module == id_.module and other.slot:
            updated = replace(other, kind=Kind.UPDATED_PARAM)
            if updated not in info.tensors:
                found.setdefault(other.slot, record)
    return list(found.values())


def _at(id_: TensorId, other: TensorId) -> TensorId:
    return replace(id_, step=other.step, microbatch=other.microbatch)


def _rows(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """``[tokens of all micro-batches, features]``; None where one is not known."""
    known = [part.reshape(-1, part.shape[-1]) for part in parts if part is not None]
    if len(known) < len(parts) or len({part.shape[1] for part in known}) != 1:
        return None
    return np.concatenate(known)


def _fit(given: np.ndarray, made: np.ndarray) -> np.ndarray | None:
    """What all rows are multiplied by, ``[features and 1, features]``, if one does."""
    factor, _, rank, _ = np.linalg.lstsq(given, made, rcond=None)
    rest = float(np.linalg.norm(given @ factor - made))
    if rank < given.shape[1] or rest > _MOST_OFF * np.linalg.norm(made):
        return None
    return factor
