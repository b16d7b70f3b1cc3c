"""What the page says is to be done next, from the verdict and the first divergence."""

from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.outcome import ErrorKind, Outcome
from ttrace.report.before_first import BACKWARD, BeforeFirst, before_first
from ttrace.report.html.figures import plural
from ttrace.report.model import Report

_MAX_MODULES = 3
"""Modules that are named in a sentence."""

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
    status = next((t.status for t in report.tensors if t.id == first.id), "")
    if status == "unmatched":
        return (
            "Find out why only one of the runs has the tensors listed as unmatched; "
            "--allow PATTERN permits those that are meant to be so."
        )
    near = before_first(report)
    text = (
        f"Begin with {first.module}, where the first divergence is (phase: "
        f"{first.phase}). "
        if near is None
        else _begin(first.module, near)
    )
    if report.diagnosis:
        text += "The diagnoses below say what was found wrong. "
    if len(report.culprits) > 1:
        return (
            f"{text}Then mend the other places below where failures begin; all else "
            "may be wrong only because of them."
        )
    return text + "What comes later may be wrong only because of it."


def _begin(module: str, near: BeforeFirst) -> str:
    """Where to look first, of a first divergence that passes between modules."""
    if near.is_given and module != ROOT_MODULE:
        what = "a gradient that differs" if near.kind in BACKWARD else "what differs"
        text = f"Begin before {_module(module)}, which is only given {what}. "
    else:
        phase = "backward" if near.kind in BACKWARD else "forward"
        text = (
            f"Begin with {_module(module)}, where the first divergence is (phase: "
            f"{phase}). "
        )
    unseen = list(near.not_compared[:_MAX_MODULES])
    if len(near.not_compared) > _MAX_MODULES:
        unseen.append(f"{len(near.not_compared) - _MAX_MODULES} more")
    if near.agrees is None:
        nothing = "Nothing before it in its micro-batch was compared and agrees"
        if unseen:
            return f"{text}{nothing}: look at {_listed(unseen)}, which lie before it. "
        return f"{text}{nothing}: look at what leads to it. "
    text += f"The last tensor before it that agrees is {near.agrees}: look at "
    backward = "the backward of " if near.kind in BACKWARD else ""
    between = f"what {backward}{_module(near.within)} does between the two"
    if not unseen:
        return f"{text}{between}. "
    were = "was" if len(unseen) == 1 else "were"
    return (
        f"{text}{_listed(unseen)}, which lie{'s' * (len(unseen) == 1)} between and "
        f"{were} not compared, and at {between}. "
    )


def _module(module: str) -> str:
    return "the model" if module == ROOT_MODULE else module


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
