"""The set-up of both runs, side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ttrace.report.html.figures import plural, setting
from ttrace.report.model import Report, RunSetup


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupRow:
    """One property of the runs.

    Attributes:
        name: What it is.
        reference: Its value there, in words; empty where it is not stated.
        candidate: Likewise.
        differs: Whether both state it, and not alike.
        is_binding: Whether the difference changes the mathematics.
    """

    name: str
    reference: str
    candidate: str
    differs: bool = False
    is_binding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupGroup:
    """Rows under one heading.

    Attributes:
        title: The heading.
        rows: What differs first.
        is_short: Whether it says in a few rows which runs these are.
    """

    title: str
    rows: tuple[SetupRow, ...]
    is_short: bool = False


_SHORT = ("run", "meshes")
"""Titles of the groups that are short."""


_TRACE = "trace"
"""The row of where a trace lies, which says nothing of its run."""


def differences(report: Report) -> list[SetupRow]:
    """What the runs do not have in common, what changes the mathematics first."""
    rows = [
        SetupRow(
            name=name,
            reference=setting(pair[0]),
            candidate=setting(pair[1]),
            differs=True,
            is_binding=name in report.setup.binding,
        )
        for name, pair in report.setup.differences.items()
    ]
    return sorted(rows, key=lambda row: not row.is_binding)


def setup_groups(report: Report) -> list[SetupGroup]:
    """Everything that the runs say of themselves; groups without rows are left out."""
    reference, candidate = report.setup.reference, report.setup.candidate
    groups = [
        ("run", _general(reference), _general(candidate)),
        ("meshes", _meshes(reference), _meshes(candidate)),
        ("versions", reference.versions, candidate.versions),
        ("settings", reference.settings, candidate.settings),
        ("recorded only", reference.capture, candidate.capture),
    ]
    found = []
    for title, left, right in groups:
        rows = sorted(
            _rows(left, right, report.setup.binding), key=lambda row: not row.differs
        )
        if rows:
            found.append(
                SetupGroup(title=title, rows=tuple(rows), is_short=title in _SHORT)
            )
    return found


def _general(run: RunSetup) -> Mapping[str, object]:
    if not run.framework and not run.world_size:
        return {}  # nothing was recorded
    values: dict[str, object] = {
        _TRACE: run.path,
        "framework": run.framework,
        "ranks": run.world_size,
    }
    if run.num_recorded_ranks is not None and run.num_recorded_ranks < run.world_size:
        values["recorded ranks"] = run.num_recorded_ranks
    if run.num_parameters:
        sharded = ", ".join(
            f"{number} sharded over {axis}"
            for axis, number in run.sharded_parameters.items()
        )
        values["parameters"] = f"{run.num_parameters}, {sharded or 'none sharded'}"
    return values


def _meshes(run: RunSetup) -> Mapping[str, object]:
    return {name: dict(sizes) for name, sizes in run.meshes.items()}


def _rows(
    left: Mapping[str, object], right: Mapping[str, object], binding: tuple[str, ...]
) -> Iterator[SetupRow]:
    for name in dict.fromkeys((*left, *right)):
        both = name in left and name in right
        differs = (
            both and name != _TRACE and setting(left[name]) != setting(right[name])
        )
        yield SetupRow(
            name=name,
            reference=setting(left[name]) if name in left else "",
            candidate=setting(right[name]) if name in right else "",
            differs=differs,
            is_binding=differs and name in binding,
        )


def map_sentence(report: Report) -> str:
    """What matched the tensors; empty where they have the same names."""
    mapped = report.setup.map
    if mapped is None:
        return ""
    text = f"Tensors were matched by {mapped.path}, {plural(mapped.num_rules, 'rule')}"
    if mapped.num_unverified:
        text += f", {mapped.num_unverified} of them unverified"
    if mapped.num_left_out_reference or mapped.num_left_out_candidate:
        text += (
            f"; it leaves out {mapped.num_left_out_reference} inputs and outputs of "
            f"the reference, {mapped.num_left_out_candidate} of the candidate"
        )
    return f"{text}."


def equal_settings(report: Report) -> list[str]:
    """Names of the versions and settings that both runs state alike."""
    reference, candidate = report.setup.reference, report.setup.candidate
    return [
        name
        for left, right in (
            (reference.versions, candidate.versions),
            (reference.settings, candidate.settings),
        )
        for name in left
        if name in right and setting(left[name]) == setting(right[name])
    ]


def without_record(report: Report) -> list[str]:
    """The runs of which nothing was recorded, as where a job ended before."""
    runs = {"reference": report.setup.reference, "candidate": report.setup.candidate}
    return [side for side, run in runs.items() if not _general(run)]
