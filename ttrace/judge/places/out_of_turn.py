"""A tensor that is what the reference has at another time."""

from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.values import values_of

_MOST_READ = 32
"""Times that are tried, the nearest first."""


_FEW_ELEMENTS = 8

LEAST_COUNTS = 3
"""Whole numbers, not all the same, that are no other ones by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfTurn:
    """A tensor of the candidate that is the reference's of another time.

    Attributes:
        id: The tensor.
        instead: What it is: the same of another step, micro-batch or call.
    """

    id: TensorId
    instead: TensorId


def _are_different_counts(values: np.ndarray) -> bool:
    return bool((values == np.round(values)).all() and np.ptp(values))


def find_out_of_turn(
    values: DivergedValues | None, reference: TraceSource
) -> OutOfTurn | None:
    """Looks whether the reference has the candidate's values earlier or later.

    Args:
        values: Of the first divergence.
        reference: The trusted run.
    """
    if values is None or not values.ours.any():
        return None
    if values.id.kind is Kind.WRITTEN_PARAM:
        return None  # what is not written to is what it was in the step before
    if values.ours.size < _FEW_ELEMENTS and not _are_different_counts(values.ours):
        return None  # what something makes of the reference's by chance
    id_ = values.id

    def distance(other: TensorId) -> tuple[int, int, int]:
        return (
            abs(other.step - id_.step),
            abs((other.microbatch or 0) - (id_.microbatch or 0)),
            abs(other.call - id_.call),
        )

    others = [
        other
        for other in reference.info.tensors
        if (other.module, other.kind, other.slot) == (id_.module, id_.kind, id_.slot)
        and other != id_
        and other.pass_ is id_.pass_
        and reference.info.tensors[other].global_shape == values.ours.shape
    ]
    for other in sorted(others, key=distance)[:_MOST_READ]:
        read = values_of(other, reference)
        if read is not None and values.is_explained(read):
            return OutOfTurn(id=id_, instead=other)
    return None
