"""An input that the reference carries over, and of which the candidate has another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.carried import carried_from
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedInput:
    """What both runs give, where the reference gives what it returned before.

    Attributes:
        id: The input.
        source: The output that it is in the reference, and that agrees.
        instead: The output of its own that the candidate gives; None if it is none.
        constant: The number that all elements are there; None if they differ.
    """

    id: TensorId
    source: TensorId
    instead: TensorId | None = None
    constant: float | None = None


def find_carried_input(
    first: TensorVerdict | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> CarriedInput | None:
    """Looks whether the reference carries over what fails first.

    Args:
        first: On the first divergence.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    if not failed_by_values(first) or first.id.kind is not Kind.INPUT:
        return None
    source = carried_from(first.id, reference)
    agrees = any(v.id == source and v.status is Status.PASSED for v in verdicts)
    values = values_of(first.id, candidate) if agrees else None
    if source is None or values is None:
        return None
    constant = float(values.flat[0]) if np.ptp(values) == 0 else None
    return CarriedInput(
        id=first.id,
        source=source,
        instead=carried_from(first.id, candidate),
        constant=constant,
    )
