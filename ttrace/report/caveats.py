"""What a verdict does not cover, in sentences; every renderer for people says them."""

from collections.abc import Iterator

from ttrace.ir.kinds import Kind
from ttrace.judge.coverage import PARAM_GRADIENTS
from ttrace.judge.verdicts.verdict import PartReason
from ttrace.report.model import Report


def caveats(report: Report) -> Iterator[str]:
    """What was compared in part, not recorded, or judged by less than measured noise.

    Without what was skipped, which ``Counts`` has by its reasons.
    """
    for reason, count in sorted(report.parts.items()):
        yield _part_sentence(reason, count, report)
    if _lacks_updates(report):
        yield (
            "no updated_param was recorded, so what the optimizer does was not "
            "compared: give the optimizer to the frontend's trace call"
        )
    if report.num_uncalibrated:
        yield (
            "uncalibrated tolerances, from dtype and depth and not from noise (use "
            f"ttrace check, or --tolerance): {report.num_uncalibrated} tensors"
        )


def _lacks_updates(report: Report) -> bool:
    """Whether training runs recorded gradients of parameters, and no parameter after.

    What ``--kinds`` leaves out is not missed.
    """
    has_gradients = any(kind.value in report.coverage for kind in PARAM_GRADIENTS)
    runs = (report.setup.reference, report.setup.candidate)
    return (
        has_gradients
        and Kind.UPDATED_PARAM.value not in report.coverage
        and not any("kinds" in run.capture for run in runs)
        and not report.only
    )


def _part_sentence(reason: PartReason, count: int, report: Report) -> str:
    sides = {"reference": report.setup.reference, "candidate": report.setup.candidate}
    filtered = [
        f"{run.num_recorded_ranks} of {run.world_size} ranks of the {side}"
        for side, run in sides.items()
        if run.num_recorded_ranks is not None
        and run.num_recorded_ranks < run.world_size
    ]
    recorded = " and ".join(filtered) or "not all ranks"
    what = {
        PartReason.RANKS: "what these ranks have in common",
        PartReason.ROWS: "the rows that these ranks have in common, where rows depend "
        "on data",
    }[reason]
    return (
        f"compared in part, as {recorded} were recorded: {count} "
        f"tensor{'s' if count > 1 else ''}, by {what}; record without --ranks to "
        "compare all of them"
    )
