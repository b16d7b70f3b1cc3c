"""How the tolerances of a report came about: all together, and kind by kind."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.judge.tolerances.tolerance import Estimator
from ttrace.report.html.words import ORIGIN_WORDS
from ttrace.report.model import Report, TensorReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ToleranceOrigin:
    """Tensors whose tolerances came about alike.

    Attributes:
        name: Of the estimator.
        words: What that means.
        count: How many compared tensors.
        noise_dominated: Those among them that passed by a noise too large to tell an
            error.
        example: A derivation.
        example_id: The tensor that it is of.
    """

    name: str
    words: str
    count: int
    noise_dominated: int
    example: str
    example_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTolerances:
    """The tolerances of one kind.

    Attributes:
        kind: Its name.
        measured: Tensors whose tolerance is a multiple of their measured noise.
        at_least: Those whose noise was smaller than what rounding does at least, so
            that this is their tolerance; None in reports that do not say.
        uncalibrated: Those of dtype and depth alone.
        exact: Those that must not differ at all.
        smallest: Tolerance, of those that are not exact; None if all are.
        median: Likewise.
        largest: Likewise.
        largest_share: Largest noise over the norm of its tensor; None where no noise
            was measured.
    """

    kind: str
    measured: int
    at_least: int | None
    uncalibrated: int
    exact: int
    smallest: float | None
    median: float | None
    largest: float | None
    largest_share: float | None


def tolerance_origins(report: Report) -> list[ToleranceOrigin]:
    """How the tolerances of the compared tensors came about, by estimator."""
    words = {estimator.value: text for estimator, text in ORIGIN_WORDS.items()}
    groups: dict[str, list[TensorReport]] = {}
    for tensor in report.tensors:
        if tensor.tolerance_from:
            groups.setdefault(tensor.tolerance_from, []).append(tensor)
    rows = []
    for name, tensors in groups.items():
        telling = next((t for t in tensors if t.status == "failed"), tensors[0])
        rows.append(
            ToleranceOrigin(
                name=name,
                words=words.get(name, name),
                count=len(tensors),
                noise_dominated=sum(bool(t.noise_dominated) for t in tensors),
                example=telling.tolerance_derivation or "",
                example_id=telling.id,
            )
        )
    return sorted(rows, key=lambda row: -row.count)


def tolerances_by_kind(report: Report) -> list[KindTolerances]:
    """One row a kind of which anything was compared, in the order of a step."""
    groups: dict[str, list[TensorReport]] = {}
    for tensor in report.tensors:
        if tensor.tolerance is not None and tensor.tolerance_from:
            groups.setdefault(tensor.kind, []).append(tensor)
    known = [kind.value for kind in Kind]
    order = sorted(groups, key=lambda k: known.index(k) if k in known else len(known))
    return [_of_kind(kind, groups[kind]) for kind in order]


def _of_kind(kind: str, tensors: Sequence[TensorReport]) -> KindTolerances:
    by_origin = {
        origin: [tensor for tensor in tensors if tensor.tolerance_from == origin]
        for origin in Estimator
    }
    measured = by_origin[Estimator.PERTURBED]
    telling = [tensor for tensor in measured if tensor.tolerance_least is not None]
    at_least = sum(tensor.tolerance == tensor.tolerance_least for tensor in telling)
    values = [
        tensor.tolerance
        for tensor in tensors
        if tensor.tolerance is not None and tensor.tolerance_from != Estimator.EXACT
    ]
    shares = [t.noise_share for t in measured if t.noise_share is not None]
    return KindTolerances(
        kind=kind,
        measured=len(measured),
        at_least=at_least if telling or not measured else None,
        uncalibrated=len(by_origin[Estimator.UNCALIBRATED]),
        exact=len(by_origin[Estimator.EXACT]),
        smallest=min(values, default=None),
        median=statistics.median(values) if values else None,
        largest=max(values, default=None),
        largest_share=max(shares, default=None),
    )
