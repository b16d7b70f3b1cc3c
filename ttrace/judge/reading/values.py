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
    values = _whole(tensor_id, trace)
    if record is None or values is None or not np.isfinite(values).all():
        return None
    return values / record.shards[0].scale


def nonfinite_index(tensor_id: TensorId, trace: TraceSource) -> tuple[int, ...] | None:
    """Where in a logical tensor the first element lies that is not finite.

    Returns:
        One index for each dim, the first in C order; None where all are finite, or the
        tensor is not there whole, too large, or a single number.
    """
    values = _whole(tensor_id, trace)
    if values is None or not values.ndim:
        return None
    is_bad = ~np.isfinite(values)
    if not is_bad.any():
        return None
    return tuple(map(int, np.unravel_index(int(is_bad.argmax()), values.shape)))


def _whole(tensor_id: TensorId, trace: TraceSource) -> np.ndarray | None:
    """float64, of its logical shape, as recorded; None where that cannot be had."""
    record = trace.info.tensors.get(tensor_id)
    if record is None or math.prod(record.global_shape) > MAX_ELEMENTS:
        return None
    values = assembled(record, trace)
    return None if values is None else values.astype(np.float64)


def flat_values(tensor_id: TensorId, trace: TraceSource) -> np.ndarray | None:
    """What `values_of` reads, ``[elements]``."""
    values = values_of(tensor_id, trace)
    return None if values is None else values.reshape(-1)
