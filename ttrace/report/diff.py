"""What is new in a report since an earlier one of the same comparison; pure values."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from ttrace.errors import UsageError
from ttrace.report.json_values import encode
from ttrace.report.model import Outcome, Report
from ttrace.report.tensor_report import TensorReport

SCHEMA_VERSION = 1
"""Version of the JSON form."""

_ORDER = (Outcome.PASS, Outcome.DIVERGED, Outcome.ERROR)
"""The better before the worse."""

_COMPARED = ("passed", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffPolicy:
    """From which growth on a margin counts as grown.

    Attributes:
        factor: How many times the old margin.
        least_margin: What is smaller than this part of its tolerance may grow: errors
            near zero change by any factor from rounding alone.
    """

    factor: float = 2.0
    least_margin: float = 0.1

    def __post_init__(self):
        if not 1 <= self.factor < math.inf or not 0 <= self.least_margin < math.inf:
            raise UsageError(
                "a growth of margins that nothing can have",
                expected="a factor from 1 on, and a least margin from 0 on",
                got=f"factor {self.factor}, least margin {self.least_margin}",
                remedy="correct --factor or --least-margin",
            )

    def has_grown(self, old: float | None, new: float | None) -> bool:
        """Whether a margin grew by more than rounding makes it."""
        if old is None or new is None or math.isnan(old):
            return False
        if math.isnan(new):
            return True
        return new >= self.least_margin and new > old * self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorChange:
    """One tensor whose judgement is another one.

    Attributes:
        id: Text form of the tensor id.
        kind: What it is.
        old_status: Of the old report; None where that does not have it.
        new_status: Of the new report, likewise.
        old_margin: Error over tolerance in the old report, where it was compared.
        new_margin: The same in the new report.
        reason: Why it has its new status; where it is gone, its old one.
    """

    id: str
    kind: str
    old_status: str | None
    new_status: str | None
    old_margin: float | None = None
    new_margin: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDiff:
    """What is new; a tensor stands in one group at most.

    Attributes:
        old_verdict: Of the old report.
        new_verdict: Of the new report.
        old_summary: The old verdict in words.
        new_summary: The new verdict in words.
        failed: Tensors that fail and did not; also such as are new.
        unmatched: Tensors that only one run has, and that were no such.
        no_longer_compared: Tensors that were compared, and now are skipped or gone.
        grown: Tensors of the same status whose margin grew.
        passing: Tensors that pass, and were there and did not.
        appeared: Tensors that only the new report has, and that do not fail.
        vanished: Tensors that only the old report has, and that were not compared.
        changed_settings: What the runs were set up with otherwise, by side and name:
            the old value and the new one.
        old_compared: Whether the old job compared anything; else all that fails or is
            unmatched counts as new.
    """

    old_verdict: Outcome
    new_verdict: Outcome
    old_summary: str
    new_summary: str
    failed: tuple[TensorChange, ...] = ()
    unmatched: tuple[TensorChange, ...] = ()
    no_longer_compared: tuple[TensorChange, ...] = ()
    grown: tuple[TensorChange, ...] = ()
    passing: tuple[TensorChange, ...] = ()
    appeared: tuple[TensorChange, ...] = ()
    vanished: tuple[TensorChange, ...] = ()
    changed_settings: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    old_compared: bool = True

    @property
    def is_worse(self) -> bool:
        """Whether anything got worse: the verdict, or one tensor."""
        by_verdict = _ORDER.index(self.new_verdict) > _ORDER.index(self.old_verdict)
        return by_verdict or any(getattr(self, name) for name in WORSE)

    def to_json(self) -> dict:
        """The same as JSON values."""
        groups = {name: getattr(self, name) for name in (*WORSE, *OTHERS)}
        return {
            "schema_version": SCHEMA_VERSION,
            "is_worse": self.is_worse,
            "old_verdict": self.old_verdict.value,
            "new_verdict": self.new_verdict.value,
            "old_summary": self.old_summary,
            "new_summary": self.new_summary,
            **{name: [_json_of(x) for x in group] for name, group in groups.items()},
            "changed_settings": encode(self.changed_settings),
            "old_compared": self.old_compared,
        }

    def json_text(self) -> str:
        """The text of a JSON file."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"


WORSE = ("failed", "unmatched", "no_longer_compared", "grown")
"""Groups of which one tensor is enough for the new report to be worse."""

OTHERS = ("passing", "appeared", "vanished")
"""Groups that are no worse."""


def diff_reports(
    old: Report, new: Report, *, policy: DiffPolicy | None = None
) -> ReportDiff:
    """Compares two reports tensor by tensor, by their ids.

    Args:
        old: The earlier report.
        new: The later one, of the same comparison.
        policy: What counts as grown; None for the default.

    Raises:
        UsageError: They have no tensor in common, one has a tensor twice, or both
            jobs ended before there was anything to compare.
    """
    policy = policy or DiffPolicy()
    before, after = _by_id(old, "old"), _by_id(new, "new")
    _require_common(old, new, before, after)
    groups: dict[str, list[TensorChange]] = {name: [] for name in (*WORSE, *OTHERS)}
    for tensor_id in [*after, *(id_ for id_ in before if id_ not in after)]:
        pair = before.get(tensor_id), after.get(tensor_id)
        group = _group_of(*pair, policy)
        if group is not None:
            groups[group].append(_change(*pair))
    return ReportDiff(
        old_verdict=old.verdict,
        new_verdict=new.verdict,
        old_summary=old.summary,
        new_summary=new.summary,
        changed_settings=_changed_settings(old, new),
        old_compared=old.error is None or bool(before),
        **{name: tuple(changes) for name, changes in groups.items()},
    )


def _by_id(report: Report, name: str) -> dict[str, TensorReport]:
    found: dict[str, TensorReport] = {}
    for tensor in report.tensors:
        if tensor.id in found:
            raise UsageError(
                f"the {name} report has a tensor twice",
                where=tensor.id,
                remedy="make it again with 'ttrace compare'",
            )
        found[tensor.id] = tensor
    return found


def _require_common(
    old: Report,
    new: Report,
    before: Mapping[str, TensorReport],
    after: Mapping[str, TensorReport],
) -> None:
    """A job that failed where an earlier one compared is worse, and no error here."""
    if before.keys() & after.keys() or (before and new.error is not None):
        return
    if not before and old.error is not None and after:
        return
    if old.error is not None and new.error is not None:
        raise UsageError(
            "both jobs ended before there was anything to compare",
            got=f"{old.error.what} (old report); {new.error.what} (new report)",
            remedy=f"mend what ended the later one: {new.error.remedy}",
        )
    raise UsageError(
        "the reports have no tensor in common",
        expected="two reports of the same comparison",
        got=f"{len(before)} tensors in the old report, {len(after)} in the new one",
        remedy="give an earlier and a later report of the same two commands",
    )


def _group_of(
    old: TensorReport | None, new: TensorReport | None, policy: DiffPolicy
) -> str | None:
    """The group that a tensor belongs to; None where nothing is new."""
    before = None if old is None else old.status
    after = None if new is None else new.status
    if after in ("failed", "unmatched") and before != after:
        return after
    if before in _COMPARED and after not in _COMPARED:
        return "no_longer_compared"
    if old is None:
        return "appeared"
    if new is None:
        return "vanished"
    if after == "passed" and before != after:
        return "passing"
    return "grown" if policy.has_grown(old.margin, new.margin) else None


def _change(old: TensorReport | None, new: TensorReport | None) -> TensorChange:
    shown = new or old
    assert shown is not None
    return TensorChange(
        id=shown.id,
        kind=shown.kind,
        old_status=None if old is None else old.status,
        new_status=None if new is None else new.status,
        old_margin=None if old is None else old.margin,
        new_margin=None if new is None else new.margin,
        reason=shown.reason,
    )


def _changed_settings(old: Report, new: Report) -> dict[str, tuple[object, object]]:
    """Versions and settings of either run that are not what they were."""
    changed: dict[str, tuple[object, object]] = {}
    if old.error is not None or new.error is not None:
        return changed  # where a job failed, nothing may be known of its runs
    for side in ("reference", "candidate"):
        sides = [getattr(report.setup, side) for report in (old, new)]
        before, after = ({**run.settings, **run.versions} for run in sides)
        for name in dict.fromkeys([*before, *after]):
            pair = before.get(name), after.get(name)
            if pair[0] != pair[1]:
                changed[f"{side} {name}"] = pair
    return changed


def _json_of(change: TensorChange) -> dict:
    values = {item.name: getattr(change, item.name) for item in fields(TensorChange)}
    return {name: encode(value) for name, value in values.items() if value is not None}
