"""State of one run alone that no step changes: it says nothing of the other one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_BUFFERS = (Kind.BUFFER, Kind.UPDATED_BUFFER)

_NAMED_BY_ARGUMENTS = "jax"
"""The framework whose runs name what a step is given by its arguments."""


def skip_still_state(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> tuple[TensorVerdict, ...]:
    """Skips what a step of plain JAX is given, uses and returns as it was.

    Such as frozen layers and tables: the other run may hold them anywhere. What is
    computed with them is compared.

    Args:
        verdicts: One per tensor.
        reference: The trusted run; only such state is read.
        candidate: The run under test, likewise.
    """
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    found: dict[tuple[Side, str | None], list[TensorId]] = {}
    for verdict in verdicts:
        id_, side = verdict.id, verdict.present
        if (
            verdict.status is Status.UNMATCHED
            and side is not None
            and id_.module == ROOT_MODULE
            and id_.kind in _BUFFERS
            and not verdict.beyond
            and runs[side].info.ranks[0].framework == _NAMED_BY_ARGUMENTS
        ):
            found.setdefault((side, id_.slot), []).append(id_)
    still = {
        id_: side
        for (side, _), ids in found.items()
        if {id_.kind for id_ in ids} == set(_BUFFERS) and _is_still(ids, runs[side])
        for id_ in ids
    }
    return tuple(
        replace(
            verdict,
            status=Status.SKIPPED,
            reason=f"{still[verdict.id]}: it alone is given this, and no step changes "
            "it: what is computed with it is compared",
        )
        if verdict.status is Status.UNMATCHED and verdict.id in still
        else verdict
        for verdict in verdicts
    )


def _is_still(ids: Sequence[TensorId], run: TraceSource) -> bool:
    first, *others = (values_of(id_, run) for id_ in ids)
    return first is not None and all(
        other is not None and np.array_equal(first, other) for other in others
    )
