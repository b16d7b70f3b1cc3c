"""What the command line does with reports alone, as functions; needs no trace."""

import os
from pathlib import Path

from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.allowances import Allowed
from ttrace.pipeline import all_allowed, load_report
from ttrace.report.again import judge_again as again_judged
from ttrace.report.diff import DiffPolicy, ReportDiff
from ttrace.report.diff import diff_reports as diff_of_reports
from ttrace.report.model import Report


def diff_reports(
    old: Report | str | os.PathLike[str],
    new: Report | str | os.PathLike[str],
    *,
    factor: float | None = None,
    least_margin: float | None = None,
) -> ReportDiff:
    """What is new in a report; ``ttrace diff`` as a function.

    Args:
        old: The earlier report, or its file.
        new: The later one of the same comparison, likewise.
        factor: A margin that grew by more than this has got worse; None for 2.
        least_margin: A margin below this may grow; None for 0.1.

    Returns:
        What is new; its ``is_worse`` says whether anything got worse.

    Raises:
        UsageError: They have no tensor in common, or a number makes no sense.
        TraceError: A file cannot be read, or is no report of this version.
    """
    given = {"factor": factor, "least_margin": least_margin}
    policy = DiffPolicy(**{k: v for k, v in given.items() if v is not None})
    return diff_of_reports(report_of(old), report_of(new), policy=policy)


def judge_again(
    report: Report | str | os.PathLike[str],
    *,
    multiplier: float | None = None,
    tolerance: ToleranceTable | str | os.PathLike[str] | None = None,
    allow: str | Allowed = (),
    allow_file: str | os.PathLike[str] | None = None,
) -> Report:
    """Judges a report again without its traces; ``ttrace judge`` as a function.

    Args:
        report: What ``compare`` or ``check`` found, or the file of it.
        multiplier: Safety factor on the measured noise.
        tolerance: What rounding explains, or the file that says it; None for what the
            report rests on.
        allow: As for ``compare``; it takes the place of what the report was made with.
        allow_file: As for ``compare``, likewise.

    Returns:
        The report with other statuses, and remarks on what could not be judged again.

    Raises:
        UsageError: There is nothing to judge, or nothing to judge by; or the tolerances
            are of another reference.
        TraceError: A file cannot be read, or the report does not hold what is needed.
    """
    if isinstance(tolerance, (str, os.PathLike)):
        tolerance = ToleranceTable.load(Path(tolerance))
    return again_judged(
        report_of(report),
        multiplier=multiplier,
        tolerances=tolerance,
        allow=all_allowed(allow, allow_file),
    )


def report_of(report: Report | str | os.PathLike[str]) -> Report:
    """A report that may be given by its path."""
    return report if isinstance(report, Report) else load_report(report)
