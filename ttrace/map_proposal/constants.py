"""State of one run alone that no step changes: buffers, and parameters that are frozen.

Such as the frequencies of a rotation or sinusoidal positions. What is computed from
them is compared; the other run computes it without keeping them.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.ir.frozen_parameters import frozen_in
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.mapping.rules import other_side

_BUFFERS = frozenset({Kind.BUFFER, Kind.UPDATED_BUFFER})

_PARAMETERS = frozenset({Kind.PARAM, Kind.UPDATED_PARAM, Kind.WRITTEN_PARAM})

State = tuple[str, str | None]
"""Module and slot."""


def find_constants(
    one_sided: Iterable[tuple[Side, TensorId]], traces: Mapping[Side, TraceSource]
) -> frozenset[tuple[Side, TensorId]]:
    """Those of some tensors that never change, and have no like.

    Where the other run has such a tensor of its own, of as many elements, the two may
    be one under two names, and none is taken for harmless.

    Args:
        one_sided: What only one run has.
        traces: Both runs.

    Raises:
        CorruptTraceError: The bytes of a buffer are not those that were written.
    """
    one_sided = list(one_sided)
    buffers = _by_state(one_sided, traces, _BUFFERS)
    parameters = _by_state(one_sided, traces, _PARAMETERS)
    frozen = {
        side: frozen_in(rank.settings for rank in trace.info.ranks)
        for side, trace in traces.items()
    }
    found = set()
    for side, trace in traces.items():
        sizes = {
            _size(ids[0], traces[other_side(side)])
            for of_kind in (buffers, parameters)
            for ids in of_kind[other_side(side)].values()
        }
        still = [
            *(ids for ids in buffers[side].values() if _is_constant(ids, trace)),
            *(
                ids
                for of, ids in parameters[side].items()
                if of in frozen[side] and not any(map(_is_written, ids))
            ),
        ]
        found |= {
            (side, id_)
            for ids in still
            if _size(ids[0], trace) not in sizes
            for id_ in ids
        }
    return frozenset(found)


def _is_written(tensor_id: TensorId) -> bool:
    return tensor_id.kind is Kind.WRITTEN_PARAM


def _by_state(
    one_sided: Iterable[tuple[Side, TensorId]],
    traces: Mapping[Side, TraceSource],
    kinds: Collection[Kind],
) -> dict[Side, dict[State, list[TensorId]]]:
    found: dict[Side, dict[State, list[TensorId]]] = {side: {} for side in Side}
    for side, id_ in one_sided:
        if id_.kind in kinds and id_ in traces[side].info.tensors:
            found[side].setdefault((id_.module, id_.slot), []).append(id_)
    return found


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
