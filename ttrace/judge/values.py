"""Values of a run's tensors, read to explain a failure; only what is small."""

import math

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource

MAX_ELEMENTS = 1 << 24
"""Elements of a tensor that is read."""


def values_of(tensor_id: TensorId, trace: TraceSource) -> np.ndarray | None:
    """Reads one tensor, without its scale.

    Returns:
        float64, of its logical shape; None where it is not there whole, too large, or
        not finite.
    """
    record = trace.info.tensors.get(tensor_id)
    if record is None or math.prod(record.global_shape) > MAX_ELEMENTS:
        return None
    values = assembled(record, trace)
    if values is None:
        return None
    values = values.astype(np.float64)
    return values / record.shards[0].scale if np.isfinite(values).all() else None


def flat_values(tensor_id: TensorId, trace: TraceSource) -> np.ndarray | None:
    """What `values_of` reads, ``[elements]``."""
    values = values_of(tensor_id, trace)
    return None if values is None else values.reshape(-1)
