"""What the page says to a reader who knows nothing of ttrace."""

from ttrace.ir.kinds import Kind
from ttrace.judge.outcome import ErrorKind, Outcome
from ttrace.judge.tolerance import Estimator
from ttrace.report.html.figures import plural
from ttrace.report.model import Report

KIND_WORDS = {
    Kind.PARAM: "parameters before the first step",
    Kind.BUFFER: "what modules keep besides, before the first step",
    Kind.INPUT: "what a module is given",
    Kind.OUTPUT: "what a module returns",
    Kind.LOSS: "the loss of a micro-batch",
    Kind.GRAD_OUTPUT: "gradient of what a module returns",
    Kind.GRAD_INPUT: "gradient of what a module is given",
    Kind.PARAM_GRAD: "gradient of a parameter, straight from backward",
    Kind.MAIN_GRAD: "gradient after accumulation and reduction",
    Kind.GRAD_NORM: "norm of all gradients",
    Kind.CLIPPED_GRAD: "gradient after clipping",
    Kind.LEARNING_RATE: "the learning rate of the step",
    Kind.OPTIMIZER_STATE: "moments and the like",
    Kind.UPDATED_PARAM: "parameters after the step",
    Kind.UPDATED_BUFFER: "what modules keep besides, after the step",
    Kind.OP: "result of one operation",
    Kind.COLLECTIVE: "operands and results of a collective",
}

ORIGIN_WORDS = {
    Estimator.PERTURBED: "measured: a multiple of the largest effect that rounding "
    "noise had in noise runs of the reference",
    Estimator.UNCALIBRATED: "uncalibrated: a guess from the dtype and the depth; no "
    "noise run measured it",
    Estimator.EXACT: "exact: nothing may differ (what a run was given, or values that "
    "are no floats)",
}

STATUS_WORDS = {
    "passed": "compared, and within its tolerance",
    "failed": "compared, and beyond its tolerance",
    "unmatched": "only one of the runs has it",
    "skipped": "left out of the comparison, with a reason",
}

VERDICT_SIGNS = {Outcome.PASS: "✓", Outcome.DIVERGED: "✗", Outcome.ERROR: "!"}

_ERROR_ADVICE = {
    ErrorKind.USAGE: "Correct the command line or the files that it names.",
    ErrorKind.COMMAND: "Mend the command; its output is in the logs of the check.",
    ErrorKind.TRACE: "Mend or record again what the summary names.",
    ErrorKind.SETUP: "Let both runs begin alike (what differs is listed under Set-up), "
    "then compare again. Until then no difference below is known to be a bug.",
    ErrorKind.COVERAGE: "Do what the summary says about what is missing, then compare "
    "again. What was compared is shown below.",
}


def what_to_do(report: Report) -> str:
    """The next step of somebody who has read the verdict."""
    if report.verdict is Outcome.PASS:
        text = "Nothing that was compared needs mending. "
        num_left = report.counts.skipped + report.counts.unmatched
        if num_left:
            were = "was" if num_left == 1 else "were"
            text += (
                f"{plural(num_left, 'tensor')} {were} not compared: see below whether "
                "that matters to you."
            )
        else:
            text += "Every recorded tensor was compared."
        return text
    if report.verdict is Outcome.ERROR:
        if report.error is not None:
            return f"{report.error.remedy[:1].upper()}{report.error.remedy[1:]}."
        if report.error_kind is None:
            return "Do what the summary says, then compare again."
        return _ERROR_ADVICE[report.error_kind]
    first = report.first_divergence
    if first is None:
        return "Look at the tensors below that failed or that only one run has."
    text = f"Begin with {first.module}, where the first divergence is ({first.phase}). "
    if report.diagnosis:
        text += "The diagnoses below say what was found wrong. "
    return text + "What comes later may be wrong only because of it."
