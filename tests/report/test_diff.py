"""What is new in a report: each change in its group, and which of them are worse."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from tests.factories.reports import some_report
from ttrace.errors import CommandError, UsageError
from ttrace.report.diff import (
    OTHERS,
    WORSE,
    DiffPolicy,
    TensorChange,
    diff_reports,
)
from ttrace.report.diff_text import render_diff
from ttrace.report.failed_job import report_of_error
from ttrace.report.model import Outcome, Report, TensorReport
from ttrace.testing.report_samples import CONTROLS, HOSTILE, diverged_report

KEPT = TensorReport(id="step0/mb0/a/output/0", kind="output", status="passed")


def tensor(status: str, margin: float | None = None) -> TensorReport:
    return TensorReport(
        id="step0/mb0/b/output/0",
        kind="output",
        status=status,
        reason="why",
        margin=margin,
    )


def report(*tensors: TensorReport | None, verdict=Outcome.PASS) -> Report:
    there = (item for item in tensors if item is not None)
    return some_report(tensors=(KEPT, *there), verdict=verdict)


def groups(diff) -> list[str]:
    return [name for name in (*WORSE, *OTHERS) if getattr(diff, name)]


@pytest.mark.parametrize(
    "old, new, group",
    [
        (tensor("passed"), tensor("failed"), "failed"),
        (tensor("skipped"), tensor("failed"), "failed"),
        (None, tensor("failed"), "failed"),
        (tensor("passed"), tensor("unmatched"), "unmatched"),
        (tensor("skipped"), tensor("unmatched"), "unmatched"),
        (None, tensor("unmatched"), "unmatched"),
        (tensor("passed"), tensor("skipped"), "no_longer_compared"),
        (tensor("failed"), tensor("skipped"), "no_longer_compared"),
        (tensor("failed"), None, "no_longer_compared"),
        (tensor("passed", 0.3), tensor("passed", 0.7), "grown"),
        (tensor("failed", 3.0), tensor("failed", 9.0), "grown"),
        (tensor("passed", 0.0), tensor("passed", 0.1), "grown"),
        (tensor("failed", 2.0), tensor("failed", math.nan), "grown"),
        (tensor("failed"), tensor("passed"), "passing"),
        (tensor("unmatched"), tensor("passed"), "passing"),
        (tensor("skipped"), tensor("passed"), "passing"),
        (None, tensor("passed"), "appeared"),
        (None, tensor("skipped"), "appeared"),
        (tensor("skipped"), None, "vanished"),
        (tensor("unmatched"), None, "vanished"),
        (tensor("passed", 0.3), tensor("passed", 0.6), None),
        (tensor("passed", 0.01), tensor("passed", 0.09), None),
        (tensor("failed", math.inf), tensor("failed", math.inf), None),
        (tensor("failed", math.nan), tensor("failed", math.nan), None),
        (tensor("unmatched"), tensor("skipped"), None),
        (tensor("unmatched"), tensor("unmatched"), None),
    ],
)
def test_each_change_has_its_group(old, new, group):
    diff = diff_reports(report(old), report(new))
    assert groups(diff) == ([] if group is None else [group])
    assert diff.is_worse is (group in WORSE)
    if group is not None:
        (change,) = getattr(diff, group)
        assert change == TensorChange(
            id="step0/mb0/b/output/0",
            kind="output",
            old_status=old and old.status,
            new_status=new and new.status,
            old_margin=old and old.margin,
            new_margin=new and new.margin,
            reason="why",
        ) or math.isnan(change.new_margin)


@pytest.mark.parametrize(
    "old, new, is_worse",
    [
        ("pass", "diverged", True),
        ("pass", "error", True),
        ("diverged", "error", True),
        ("diverged", "pass", False),
        ("error", "diverged", False),
        ("error", "error", False),
    ],
)
def test_the_verdict_may_be_all_that_got_worse(old, new, is_worse):
    sides = (report(verdict=Outcome(verdict)) for verdict in (old, new))
    diff = diff_reports(*sides)
    assert not groups(diff) and diff.is_worse is is_worse
    assert (diff.old_verdict, diff.new_verdict) == (old, new)


def test_the_policy_says_what_counts_as_grown():
    sides = report(tensor("passed", 0.02)), report(tensor("passed", 0.09))
    assert not diff_reports(*sides).grown
    assert diff_reports(*sides, policy=DiffPolicy(least_margin=0.05)).grown
    strict = DiffPolicy(least_margin=0.05, factor=10)
    assert not diff_reports(*sides, policy=strict).grown


@pytest.mark.parametrize("policy", [{"factor": 0.5}, {"least_margin": math.nan}])
def test_policies_that_make_no_sense(policy):
    with pytest.raises(UsageError, match="a growth of margins that nothing can have"):
        DiffPolicy(**policy)


def test_what_the_runs_were_set_up_with_otherwise():
    old = report()
    candidate = old.setup.candidate
    changed = replace(
        candidate,
        settings={**candidate.settings, "tp": 4},
        versions={"torch": "2.13.0"},
    )
    new = replace(old, setup=replace(old.setup, candidate=changed))
    diff = diff_reports(old, new)
    assert diff.changed_settings == {
        "candidate tp": (2, 4),
        "candidate torch": ("2.6.0", "2.13.0"),
    }
    assert not diff.is_worse


def test_a_job_that_failed_is_worse_than_one_that_compared():
    error = CommandError("the command failed", where="train.py", remedy="read its log")
    failed = report_of_error(error, backend="numpy")
    diff = diff_reports(report(), failed)
    assert diff.is_worse and diff.new_verdict == "error"
    assert [change.id for change in diff.no_longer_compared] == [KEPT.id]
    assert not diff.changed_settings
    better = diff_reports(failed, report())
    assert not better.is_worse and not better.old_compared
    assert (
        "the old job compared nothing, so all that fails counts as new; its report "
        "says: Nothing was compared: the command failed."
    ) in " ".join(shown(better).split())


def test_two_jobs_that_compared_nothing_have_nothing_to_compare():
    old, new = (
        report_of_error(
            CommandError(f"the {side} failed", remedy="read its log"), backend="numpy"
        )
        for side in ("reference", "candidate")
    )
    with pytest.raises(UsageError, match="both jobs ended before there was") as caught:
        diff_reports(old, new)
    assert caught.value.got == (
        "the reference failed (old report); the candidate failed (new report)"
    )
    assert caught.value.remedy == "mend what ended the later one: read its log"


def test_reports_of_other_comparisons_are_refused():
    other = some_report(tensors=(replace(KEPT, id="step0/mb0/other/output/0"),))
    with pytest.raises(UsageError, match="no tensor in common") as caught:
        diff_reports(report(), other)
    assert "1 tensors in the old report, 1 in the new one" in str(caught.value)


def test_a_tensor_twice_is_refused():
    with pytest.raises(UsageError, match="the new report has a tensor twice") as caught:
        diff_reports(report(), report(KEPT))
    assert KEPT.id in str(caught.value)


def test_json():
    diff = diff_reports(
        report(tensor("passed", 0.5)),
        report(tensor("failed", math.inf), verdict=Outcome.DIVERGED),
    )
    value = json.loads(diff.json_text())
    assert value["schema_version"] == 1 and value["is_worse"] is True
    assert (value["old_verdict"], value["new_verdict"]) == ("pass", "diverged")
    assert value["failed"] == [
        {
            "id": "step0/mb0/b/output/0",
            "kind": "output",
            "old_status": "passed",
            "new_status": "failed",
            "old_margin": 0.5,
            "new_margin": "Infinity",
            "reason": "why",
        }
    ]
    assert all(value[name] == [] for name in (*WORSE, *OTHERS) if name != "failed")


def shown(diff) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    console.print(render_diff(diff))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_the_terminal_shows():
    many = tuple(
        replace(tensor("failed", 4.0), id=f"step{i}/b/output/0") for i in range(14)
    )
    text = shown(
        diff_reports(
            report(tensor("passed", 0.2)),
            report(tensor("passed", 0.8), *many, verdict=Outcome.DIVERGED),
        )
    )
    for line in (
        "something got worse\n",
        "verdict: pass -> diverged\n",
        "14 tensors that fail, and did not\n",
        "1 tensors whose margin grew\n",
        "tensors that fail, and did not (12 of 14)",
        "not there",
        "0.2 -> 0.8",
    ):
        assert line in text, line
    quiet = shown(diff_reports(report(), report()))
    assert quiet.startswith("nothing got worse\nverdict: pass, as before\n")


@pytest.mark.parametrize("name", [*HOSTILE.values(), *CONTROLS.values()])
def test_hostile_names_are_harmless(name):
    bad = diverged_report(name, reason=name)
    text = shown(diff_reports(replace(bad, tensors=bad.tensors[:1]), bad))
    assert all(char.isprintable() or char == "\n" for char in text)
    if name in HOSTILE.values():
        assert name.replace("\\", "") in text.replace("\\", "")
