"""Averages of parameters that are made otherwise, of parameters that agree."""

from ttrace.judge.diagnosis import Diagnosis, Findings, tensors
from ttrace.judge.optimizers.average_fit import Averaging, is_average
from ttrace.judge.reading.failures import examined_text


def average_settings(findings: Findings) -> Diagnosis | None:
    """Names the decay, or the time, where it explains the averages of both runs."""
    fit = findings.evidence.optimizer.average
    if fit is None:
        return None
    ours, theirs = fit.candidate, fit.reference
    first = fit.ids[0]
    if ours.is_early != theirs.is_early:
        what = (
            f"of the parameters {_when(ours)} in the candidate, and {_when(theirs)} in "
            "the reference: look at whether the average is updated before or after "
            "optimizer.step()"
        )
    else:
        what = (
            f"with decay {ours.decay:g} in the candidate, and {theirs.decay:g} in the "
            "reference: look at what the average is made with, and at a warm-up of it"
        )
    examined = examined_text(findings.verdicts, is_average)
    verb = "is" if len(fit.ids) == 1 else "are"
    return Diagnosis(
        code="average_settings",
        sentence=f"{tensors(len(fit.ids))} (averages of parameters that agree, first "
        f"{first}){examined} {verb} made {what}",
        evidence={
            f"{name}_of_{side}": value
            for side, of_run in (("reference", theirs), ("candidate", ours))
            for name, value in (
                ("decay", "" if of_run.decay is None else of_run.decay),
                ("taken", "before the step" if of_run.is_early else "after the step"),
            )
        },
        tensor_ids=tuple(map(str, fit.ids)),
    )


def _when(averaging: Averaging) -> str:
    return "before the step" if averaging.is_early else "after it"
