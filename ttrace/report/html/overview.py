"""What the page says without a script: small plain values for the template."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.report.html.figures import plural, share
from ttrace.report.html.words import KIND_WORDS
from ttrace.report.model import KindCoverage, Report, TensorReport

MAX_FAILURES = 40
"""Failed tensors that are listed without a script."""

MAX_REASONS = 40
"""Reasons why tensors were not compared."""

MAX_PLACES = 40
"""Places where failures begin."""

MAX_DIFFERING = 200
"""Initial parameters and inputs that differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRow:
    """How much of one kind was compared.

    Attributes:
        kind: Its name.
        words: What it is.
        counts: The figures.
        compared_share: In percent, as text.
        parts: Widths of the bar's parts, in percent: compared, unmatched, skipped.
    """

    kind: str
    words: str
    counts: KindCoverage
    compared_share: str
    parts: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCompared:
    """Tensors that were not compared, for one and the same reason.

    Attributes:
        status: ``skipped`` or ``unmatched``.
        reason: Why.
        count: How many.
        kinds: Of which kinds how many, in words; empty where that is not known.
        example: Id of one of them; empty where none is known.
    """

    status: str
    reason: str
    count: int
    kinds: str
    example: str


def coverage_rows(report: Report) -> list[CoverageRow]:
    """One row a kind, in the order of a step."""
    coverage = report.coverage or _counted(report.tensors)
    rows = []
    for kind, counts in coverage.items():
        total = max(counts.total, 1)
        rows.append(
            CoverageRow(
                kind=kind,
                words=_kind_words(kind),
                counts=counts,
                compared_share=share(counts.compared, counts.total),
                parts=(
                    round(100 * counts.compared / total, 2),
                    round(100 * counts.unmatched / total, 2),
                    round(100 * counts.skipped / total, 2),
                ),
            )
        )
    return rows


def _kind_words(kind: str) -> str:
    return KIND_WORDS[Kind(kind)] if kind in {k.value for k in Kind} else ""


def _counted(tensors: Iterable[TensorReport]) -> dict[str, KindCoverage]:
    """Coverage of a report that does not say it: an older one."""
    counts: dict[str, Counter[str]] = {}
    for tensor in tensors:
        of_kind = counts.setdefault(tensor.kind, Counter())
        of_kind[tensor.status] += 1
        of_kind["noise_dominated"] += bool(tensor.noise_dominated)
    known = [kind.value for kind in Kind]
    order = sorted(
        counts, key=lambda kind: known.index(kind) if kind in known else len(known)
    )
    return {
        kind: KindCoverage(
            compared=counts[kind]["passed"] + counts[kind]["failed"],
            skipped=counts[kind]["skipped"],
            unmatched=counts[kind]["unmatched"],
            total=sum(
                counts[kind][status]
                for status in ("passed", "failed", "skipped", "unmatched")
            ),
            noise_dominated=counts[kind]["noise_dominated"],
        )
        for kind in order
    }


def not_compared(report: Report) -> list[NotCompared]:
    """Why tensors were not compared, the most frequent reason first."""
    groups: dict[tuple[str, str], list[TensorReport]] = {}
    for tensor in report.tensors:
        if tensor.status in ("skipped", "unmatched"):
            groups.setdefault((tensor.status, tensor.reason), []).append(tensor)
    for reason in report.counts.skipped_reasons:
        groups.setdefault(("skipped", reason), [])
    rows = [
        NotCompared(
            status=status,
            reason=reason,
            count=report.counts.skipped_reasons.get(reason, len(tensors))
            if status == "skipped"
            else len(tensors),
            kinds=", ".join(
                f"{kind} {count}"
                for kind, count in Counter(t.kind for t in tensors).most_common()
            ),
            example=tensors[0].id if tensors else "",
        )
        for (status, reason), tensors in groups.items()
    ]
    # Stable: equally frequent ones stay in order of the dataflow.
    return sorted(rows, key=lambda row: -row.count)


def not_compared_headline(report: Report) -> str:
    """How much was not compared, in a line."""
    counts = report.counts
    parts = []
    if counts.skipped:
        parts.append(f"{plural(counts.skipped, 'tensor')} skipped")
    if counts.unmatched:
        parts.append(f"{plural(counts.unmatched, 'tensor')} only in one run")
    if not counts.total:
        return "There was nothing to compare."
    if not parts:
        return "Every recorded tensor was compared."
    return f"{' and '.join(parts)}, of {counts.total}."


def first_failures(report: Report) -> Sequence[TensorReport]:
    """Failed tensors in order of the dataflow, the first divergence in front."""
    failed = report.failed()
    first = report.first_divergence
    head = [t for t in failed if first is not None and t.id == first.id]
    rest = (tensor for tensor in failed if tensor not in head)
    found = list(head)
    for tensor in rest:
        if len(found) >= MAX_FAILURES:
            break
        found.append(tensor)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRow:
    """A place where failures begin.

    Attributes:
        sentence: What is wrong there, and what follows from it.
        explains: By kind, how many tensors failed by it, in words.
        ids: The first few that are wrong by themselves there.
        num_more: How many more those are.
    """

    sentence: str
    explains: str
    ids: tuple[str, ...]
    num_more: int


def places(report: Report) -> list[PlaceRow]:
    """Where failures begin, that of the first divergence first."""
    return [
        PlaceRow(
            sentence=culprit.sentence,
            explains=", ".join(
                f"{kind} {number}" for kind, number in culprit.explains.items()
            ),
            ids=culprit.ids,
            num_more=max(culprit.num_own - len(culprit.ids), 0),
        )
        for culprit in report.culprits
    ]
