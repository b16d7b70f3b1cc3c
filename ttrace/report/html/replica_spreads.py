"""How far the candidate's replicas are apart, by axis of the mesh and kind."""

import math
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.report.model import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadRow:
    """The replicas of one kind along some axes of the mesh.

    Attributes:
        over: The axes on which the two ranks of a pair are apart: ``tp`` or ``dp+tp``.
        kind: Of the tensors.
        num_tensors: Those with such replicas.
        num_unlike: Those among them whose replicas are not the same to the bit.
        num_failed: Those among these that failed, by that or by their error.
        spread: The largest relative difference of any.
    """

    over: str
    kind: str
    num_tensors: int
    num_unlike: int
    num_failed: int
    spread: float


def replica_spreads(report: Report) -> list[SpreadRow]:
    """A row for each combination of axes and kind, those with failures first."""
    found: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for tensor in report.tensors:
        failed = tensor.status == "failed"
        for over, spread in (tensor.replica_spreads or {}).items():
            found.setdefault((over, tensor.kind), []).append((spread, failed))
    order = {kind.value: place for place, kind in enumerate(Kind)}
    rows = [
        SpreadRow(
            over=over,
            kind=kind,
            num_tensors=len(pairs),
            num_unlike=sum(spread != 0 for spread, _ in pairs),
            num_failed=sum(spread != 0 and failed for spread, failed in pairs),
            spread=max((spread for spread, _ in pairs), key=_size),
        )
        for (over, kind), pairs in found.items()
    ]
    return sorted(
        rows,
        key=lambda row: (row.num_failed == 0, row.over, order.get(row.kind, 0)),
    )


def _size(spread: float) -> float:
    return math.inf if math.isnan(spread) else spread
