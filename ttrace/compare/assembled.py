"""One run's logical tensor as one array; only for what is small."""

import numpy as np

from ttrace.compare.covers import cover
from ttrace.compare.execute import read_blocks
from ttrace.compare.plan import index_dim_of
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource


def assembled(record: TensorRecord, trace: TraceSource) -> np.ndarray | None:
    """Puts a logical tensor together; of replicas the first one counts.

    Args:
        record: A tensor of the run.
        trace: The run.

    Returns:
        ``global_shape``, as it was recorded, its scale not taken out; None where its
        blocks do not say it whole.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
        LayoutError: Its shards contradict each other.
    """
    if index_dim_of(record) is not None or record.shards[0].layout.device_axes:
        return None
    found = cover(record, trace.info)
    if found.num_uncovered or found.missing_partials:
        return None
    parts = [
        (region, read_blocks(operand, region, trace))
        for region, operand in found.pieces
    ]
    if not parts:
        return None
    whole = np.empty(record.global_shape, parts[0][1].dtype)
    for region, values in parts:
        whole[(*map(slice, region.start, region.stop), ...)] = values
    return whole
