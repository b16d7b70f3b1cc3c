"""Buffers of one run alone that no step changes, such as the frequencies of a rotation.

What is computed from them is compared; the other run computes it without a buffer.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource

_BUFFERS = (Kind.BUFFER, Kind.UPDATED_BUFFER)

Buffer = tuple[str, str | None]
"""Module and slot."""


def constant_buffers(
    one_sided: Iterable[tuple[Side, TensorId]], traces: Mapping[Side, TraceSource]
) -> frozenset[tuple[Side, TensorId]]:
    """Those of some tensors that are buffers which never change, and have no like.

    Where the other run has such a buffer of its own, of as many elements, the two may
    be one under two names, and none is taken for harmless.

    Args:
        one_sided: What only one run has.
        traces: Both runs.

    Raises:
        CorruptTraceError: The bytes of a buffer are not those that were written.
    """
    found: dict[Side, dict[Buffer, list[TensorId]]] = {side: {} for side in Side}
    for side, id_ in one_sided:
        if id_.kind in _BUFFERS and id_ in traces[side].info.tensors:
            found[side].setdefault((id_.module, id_.slot), []).append(id_)
    sizes = {
        side: {_size(ids[0], traces[side]) for ids in of_side.values()}
        for side, of_side in found.items()
    }
    others = {Side.REFERENCE: Side.CANDIDATE, Side.CANDIDATE: Side.REFERENCE}
    return frozenset(
        (side, id_)
        for side, of_side in found.items()
        for ids in of_side.values()
        if _size(ids[0], traces[side]) not in sizes[others[side]]
        and _is_constant(ids, traces[side])
        for id_ in ids
    )


def _size(tensor_id: TensorId, trace: TraceSource) -> int:
    return math.prod(trace.info.tensors[tensor_id].global_shape)


def _is_constant(ids: Collection[TensorId], trace: TraceSource) -> bool:
    """Whether a buffer was recorded before and after some step, always the same."""
    if {id_.kind for id_ in ids} != set(_BUFFERS):
        return False
    values = [assembled(trace.info.tensors[id_], trace) for id_ in ids]
    first, *others = values
    return first is not None and all(
        other is not None and np.array_equal(first, other) for other in others
    )
