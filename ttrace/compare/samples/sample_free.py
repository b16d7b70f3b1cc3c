"""Activations that are the same for all samples, such as a bias of positions.

No dim of them counts samples, and none has to: that all micro-batches of a run have
them alike, to the bit, says that they do not depend on what these hold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource

_LEAST_DIMS = 2
"""Fewer may be counts, which follow the number of samples and not what they hold."""

_MAX_ELEMENTS = 1 << 22


def sample_free(
    reference: TraceSource,
    candidate: TraceSource,
    of_reference: Mapping[TensorId, TensorRecord],
    of_candidate: Mapping[TensorId, TensorRecord],
) -> frozenset[TensorId]:
    """The inputs and outputs of modules that are the same for all samples.

    Reads those that have one shape in all micro-batches of both runs.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        of_reference: What the reference recorded of the micro-batches of a step.
        of_candidate: Likewise.

    Returns:
        Their ids, without micro-batch.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    by_name: dict[TensorId, list[tuple[TraceSource, list[TensorRecord]]]] = {}
    for run, records in ((reference, of_reference), (candidate, of_candidate)):
        of_run: dict[TensorId, list[TensorRecord]] = {}
        for id_, record in records.items():
            if id_.kind in (Kind.INPUT, Kind.OUTPUT):
                of_run.setdefault(replace(id_, microbatch=None), []).append(record)
        for name, found in of_run.items():
            by_name.setdefault(name, []).append((run, found))
    return frozenset(
        name
        for name, runs in by_name.items()
        if len(runs) > 1
        and _may_be([record for _, records in runs for record in records])
        and any(len(records) > 1 for _, records in runs)
        and all(_is_one(records, run) for run, records in runs if len(records) > 1)
    )


def _may_be(records: Sequence[TensorRecord]) -> bool:
    first = records[0]
    return (
        len(first.global_shape) >= _LEAST_DIMS
        and math.prod(first.global_shape) <= _MAX_ELEMENTS
        and all(record.global_shape == first.global_shape for record in records)
        and all(
            dtype_named(record.shards[0].dtype).epsilon is not None
            for record in records
        )
    )


def _is_one(records: Sequence[TensorRecord], run: TraceSource) -> bool:
    """Whether all are one array, which is no constant."""
    values: list[np.ndarray] = []
    for record in records:
        array = assembled(record, run)
        if array is None or not np.array_equal(array, values[0] if values else array):
            return False
        values = values or [array]
    return bool((values[0] != values[0].flat[0]).any())
