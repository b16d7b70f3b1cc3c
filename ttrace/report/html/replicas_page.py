"""The page of one run's replicas: how far they differ, by axis of the mesh and kind."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.compare.execute import ReplicaResult
from ttrace.ir.skipped_step import skipped_steps
from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdicts.replica_axes import AxesApart, differing_axes
from ttrace.judge.verdicts.replicas import (
    ReplicaCheck,
    doubted_replicas,
    doubted_sentence,
)
from ttrace.report.html.figures import plural
from ttrace.report.html.page import render_page

MAX_ROWS = 1000
"""Tensors that are listed; those that differ come first."""

_MAX_PAIRS = 12
"""Ranks that are named of one tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRow:
    """The replicas of one kind along some axes of a mesh.

    Attributes:
        over: Those axes, on which the two ranks are at other places: ``tp+dp``.
        kind: Of the tensors.
        num_pairs: Replicas that were compared.
        num_differing: Those that do not agree.
        spread: Largest relative difference of any; None where there is none.
    """

    over: str
    kind: str
    num_pairs: int
    num_differing: int
    spread: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """The replicas of one tensor.

    Attributes:
        id: Its text form.
        agrees: Whether all agree.
        spread: Largest relative difference; None where nothing could be compared.
        allowed: What is tolerated of it.
        over: Axes along which the ranks differ that hold the same.
        ranks: Those that differ, in words.
    """

    id: str
    agrees: bool
    spread: float | None
    allowed: float
    over: str
    ranks: str


def render_replicas(
    name: str, info: TraceInfo, checks: Sequence[ReplicaCheck], *, is_measured: bool
) -> str:
    """The text of the page.

    Args:
        name: Of the trace.
        info: The run.
        checks: As ``check_replicas`` found them.
        is_measured: Whether tolerances rest on noise runs, and not on dtype and depth.
    """
    doubted = doubted_replicas(checks)
    checks = [check for check in checks if not check.are_doubted]
    bad = [check for check in checks if not check.agrees]
    sorted_checks = sorted(checks, key=lambda check: (check.agrees, -check.spread))
    axes = _Axes(info)
    return render_page(
        "replicas.html",
        styles=("page.css", "explore.css"),
        name=name,
        world_size=info.ranks[0].world_size if info.ranks else 0,
        num_bad=len(bad),
        checks=checks,
        what_to_do=_what_to_do(bad, axes),
        by_axis=by_axis(checks, info),
        rows=[_row(check, axes) for check in sorted_checks[:MAX_ROWS]],
        is_measured=is_measured,
        skipped=list(skipped_steps(info).values()),
        doubted=doubted_sentence(doubted) if doubted else "",
    )


class _Axes:
    """Along which axes the two ranks of a replica are apart."""

    def __init__(self, info: TraceInfo):
        self._info = info
        self._apart = AxesApart(info)

    def of(self, check: ReplicaCheck, replica: ReplicaResult) -> str:
        return self._apart.between(replica, check.record.shards[0].layout.mesh)

    def that_differ(self, check: ReplicaCheck) -> str:
        """The axes along which the ranks differ that hold the same; empty if none."""
        mesh = check.record.shards[0].layout.mesh
        return "+".join(sorted(differing_axes(check.differing, mesh, self._info)))


def by_axis(checks: Sequence[ReplicaCheck], info: TraceInfo) -> list[AxisRow]:
    """A row for each kind and combination of axes, those that differ first."""
    axes = _Axes(info)
    found: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for check in checks:
        differing = {(item.rank, item.against) for item in check.differing}
        for item in check.results:
            key = (axes.of(check, item), check.record.id.kind.value)
            is_bad = (item.rank, item.against) in differing
            found.setdefault(key, []).append((item.spread, is_bad))
    rows = [
        AxisRow(
            over=over,
            kind=kind,
            num_pairs=len(pairs),
            num_differing=sum(is_bad for _, is_bad in pairs),
            spread=max(spread for spread, _ in pairs),
        )
        for (over, kind), pairs in found.items()
    ]
    return sorted(rows, key=lambda row: (row.num_differing == 0, row.over))


def _row(check: ReplicaCheck, axes: _Axes) -> TensorRow:
    differing = check.differing
    ranks = [f"{item.rank} from {item.against}" for item in differing[:_MAX_PAIRS]]
    if len(differing) > _MAX_PAIRS:
        ranks.append(f"{len(differing) - _MAX_PAIRS} more")
    lacks = "incomplete sum: a rank's part is missing"
    return TensorRow(
        id=str(check.record.id),
        agrees=check.agrees,
        spread=check.spread if check.results else None,
        allowed=check.allowed_spread,
        over=axes.that_differ(check),
        ranks=lacks if check.cover.missing_partials else ", ".join(ranks),
    )


def _what_to_do(bad: Sequence[ReplicaCheck], axes: _Axes) -> str:
    if not bad:
        return "Nothing: all ranks that must hold the same do."
    first = bad[0]
    text = f"Begin with {first.record.id}, the first in order of the run. "
    if over := axes.that_differ(first):
        text += (
            f"Its replicas differ over {over}: look for a reduction or a "
            "broadcast over these axes that is missing or runs over another group. "
        )
    if len(bad) > 1:
        text += f"{plural(len(bad) - 1, 'further tensor')} may follow from it."
    return text.strip()
