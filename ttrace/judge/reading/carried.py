"""Inputs that are what a module returned before: a state that a run carries over.

To a later call, micro-batch or step: the state of a recurrent network, a memory.
"""

import math

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.values import values_of

_LEAST_ELEMENTS = 4

_MAX_READ = 16
"""Outputs that are read, of the shape of an input; the latest first."""


def carried_from(given: TensorId, run: TraceSource) -> TensorId | None:
    """The earlier output of the same module that an input is, to the bit; or None.

    Args:
        given: An input of a module.
        run: The run that gives it.
    """
    record = run.info.tensors.get(given)
    if record is None or math.prod(record.global_shape) < _LEAST_ELEMENTS:
        return None
    time = _time(given)
    outputs = [
        id_
        for id_, other in run.info.tensors.items()
        if id_.kind is Kind.OUTPUT
        and id_.module == given.module
        and id_.pass_ is Pass.FORWARD
        and _time(id_) < time
        and other.global_shape == record.global_shape
    ]
    values = values_of(given, run) if outputs else None
    if values is None or np.ptp(values) == 0:
        return None
    outputs = sorted(outputs, key=_time, reverse=True)[:_MAX_READ]
    for output in outputs:
        before = values_of(output, run)
        if before is not None and np.array_equal(before, values):
            return output
    return None


def when(source: TensorId, given: TensorId) -> str:
    """When an output was made that an input is: ``micro-batch 0``, ``step 1``."""
    if source.step != given.step:
        return f"step {source.step}"
    if source.microbatch != given.microbatch:
        return f"micro-batch {source.microbatch}"
    return f"call {source.call}"


def _time(id_: TensorId) -> tuple[int, int, int]:
    return id_.step, id_.microbatch or 0, id_.call
