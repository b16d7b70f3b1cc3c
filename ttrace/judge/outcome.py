"""The verdict on the candidate as a whole, in a word and in a sentence."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.trace import TraceInfo
from ttrace.judge.coverage import Gap, coverage_of, headline, uncovered_activations
from ttrace.judge.evidence import Evidence
from ttrace.judge.setup_sentence import setup_sentence
from ttrace.judge.tolerances.setup import SettingDifferences
from ttrace.judge.tolerances.tolerance import Estimator, Tolerance
from ttrace.judge.unmatched import one_sided_sentence
from ttrace.judge.verdicts.structure import BOTH_SIDES, StructureDifference
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict, count_statuses

_COARSE = 0.01
"""From this median tolerance on, relative to the value, a pass says what it is blind
to."""


_CLEAR = 4.0
"""From this margin on, a failure by noise of a finer precision leaves no doubt."""


class Outcome(StrEnum):
    """The verdict on the candidate as a whole."""

    PASS = "pass"
    DIVERGED = "diverged"
    ERROR = "error"

    @property
    def exit_code(self) -> int:
        """What a command that reports this outcome exits with."""
        return {Outcome.PASS: 0, Outcome.DIVERGED: 1, Outcome.ERROR: 2}[self]


class ErrorKind(StrEnum):
    """What keeps a comparison from a verdict; the ``error_kind`` of the report."""

    USAGE = "usage"
    """What was asked for makes no sense, or needs what is not installed."""

    COMMAND = "command"
    """A command failed, hung, or recorded nothing."""

    TRACE = "trace"
    """A trace is missing, incomplete, damaged or could not be written; or the reference
    has NaN, or infinities where no mask puts them, and nothing can be judged by it."""

    SETUP = "setup"
    """The runs were not given the same parameters, inputs or model settings."""

    COVERAGE = "coverage"
    """Nothing could be compared at all, or nothing of what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunVerdict:
    """The judgement of the candidate.

    Attributes:
        outcome: Pass, diverged, or error.
        summary: The same in one or two sentences.
        error_kind: What keeps it from a verdict; None unless it is an error.
    """

    outcome: Outcome
    summary: str
    error_kind: ErrorKind | None = None


def judge_run(
    verdicts: Sequence[TensorVerdict],
    settings: SettingDifferences,
    gaps: Sequence[Gap],
    structure: Sequence[StructureDifference] = (),
    *,
    candidate: TraceInfo,
    evidence: Evidence,
) -> RunVerdict:
    """Sums the verdicts on all tensors up.

    Args:
        verdicts: One per tensor.
        settings: What the two runs say of themselves, as far as it differs.
        gaps: What should have been compared. They only forbid to pass: a divergence
            that was found stays one, unless the gap makes it doubtful.
        structure: Modules that only one run has, and that change nothing.
        candidate: The run under test.
        evidence: What was read of both runs to explain failures.
    """
    counts = count_statuses(verdicts)
    if not counts[Status.PASSED] + counts[Status.FAILED]:
        return _error(
            ErrorKind.COVERAGE,
            f"Nothing could be compared: of {len(verdicts)} tensors in the two traces, "
            f"{counts[Status.UNMATCHED]} are unmatched and {counts[Status.SKIPPED]} "
            "skipped. Check that both were recorded from the same model, with filters "
            "that overlap.",
        )
    if settings.model:
        pairs = (
            f"{name} is {settings.all[name][0]} in the reference and "
            f"{settings.all[name][1]} in the candidate"
            for name in settings.model
        )
        return _error(
            ErrorKind.SETUP,
            f"Set-up differs: {', '.join(pairs)}. This changes the mathematics; make "
            "it equal in both runs. What follows may be a consequence.",
        )
    for verdict in verdicts:
        if verdict.cause is Cause.NONFINITE_REFERENCE:
            return _error(
                ErrorKind.TRACE,
                f"The reference cannot be trusted. {verdict.id}: {verdict.reason}. "
                "Repair the reference run first.",
            )
    for verdict in verdicts:
        if verdict.setup and verdict.status is Status.FAILED:
            return _error(ErrorKind.SETUP, setup_sentence(verdict, candidate, evidence))
    blocking = [gap.sentence for gap in gaps if gap.is_blocking]
    if blocking:
        return _error(ErrorKind.COVERAGE, f"{'. '.join(blocking)}.")
    if counts[Status.FAILED] + counts[Status.UNMATCHED]:
        first = evidence.place.first
        assert first is not None
        if not counts[Status.FAILED] and not evidence.runs.absences.gradients:
            return RunVerdict(
                outcome=Outcome.DIVERGED, summary=f"{one_sided_sentence(verdicts)}."
            )
        bad = (
            (counts[Status.FAILED], "diverge"),
            (counts[Status.UNMATCHED], "unmatched"),
        )
        numbers = ", ".join(f"{number} {word}" for number, word in bad if number)
        return RunVerdict(
            outcome=Outcome.DIVERGED,
            summary=f"Of {len(verdicts)} tensors: {numbers}. First: {first.sentence}."
            f"{_doubt(verdicts) or _few_noise_runs(verdicts)}",
        )
    compared = headline(coverage_of(verdicts))
    if gaps:
        return _error(
            ErrorKind.COVERAGE,
            f"{'. '.join(gap.sentence for gap in gaps)}. What could be compared "
            f"agrees: {compared}.",
        )
    dominated = sum(verdict.noise_dominated for verdict in verdicts)
    summary = (
        f"All {counts[Status.PASSED] - dominated} compared tensors agree within their "
        f"tolerance: {compared}."
    )
    if dominated:
        summary += dominated_note(dominated)
    summary += uncovered_activations(verdicts)
    summary += _blindness(verdicts)
    if structure:
        summary += f" Structure differs: {', '.join(map(_structure_text, structure))}."
    return RunVerdict(outcome=Outcome.PASS, summary=summary)


def dominated_note(number: int) -> str:
    """How many tensors pass by noise that is too large to tell an error."""
    are = "are" if number > 1 else "is"
    return (
        f" {number} more {are} noise-dominated: the reference's own noise is so large "
        "a part of their value that an error would not show."
    )


def _doubt(verdicts: Sequence[TensorVerdict]) -> str:
    """That nothing fails clearly, by tolerances measured in a finer dtype; or empty."""
    margin = _unclear_margin(
        verdicts,
        lambda tolerance: (
            tolerance.estimator is Estimator.PERTURBED and not tolerance.measured
        ),
    )
    if margin is None:
        return ""
    return (
        f" No error is more than {margin:.2g} times its tolerance, and the noise "
        "was measured in a finer precision than the candidate's, where fewer elements "
        "change sign at a ReLU or go to another expert: this may be rounding. Measure "
        "it in the candidate's precision to be sure, with a reference that computes in "
        "it."
    )


def _few_noise_runs(verdicts: Sequence[TensorVerdict]) -> str:
    """That nothing fails clearly, by tolerances of a single noise run; or empty."""
    margin = _unclear_margin(verdicts, lambda tolerance: tolerance.num_noise_runs == 1)
    if margin is None:
        return ""
    return (
        f" No error is more than {margin:.2g} times its tolerance, and that was "
        "measured on one noise run, whose noise may be small by chance: measure again "
        "with --draws 3 to be sure."
    )


def _unclear_margin(
    verdicts: Sequence[TensorVerdict], is_doubtful: Callable[[Tolerance], bool]
) -> float | None:
    """The largest margin, where nothing fails clearly and every tolerance is in doubt.

    None where something failed by anything else than such a tolerance.
    """
    bad = (Status.FAILED, Status.UNMATCHED)
    failed = [verdict for verdict in verdicts if verdict.status in bad]
    margins = [
        verdict.margin
        for verdict in failed
        if verdict.margin is not None
        and verdict.tolerance is not None
        and is_doubtful(verdict.tolerance)
    ]
    if len(margins) < len(failed) or max(margins, default=_CLEAR) >= _CLEAR:
        return None
    return max(margins)


def _blindness(verdicts: Sequence[TensorVerdict]) -> str:
    return coarseness(
        verdict.tolerance.relative_to(verdict.result.stats.reference_norm)
        for verdict in verdicts
        if verdict.status is Status.PASSED
        and verdict.result is not None
        and verdict.tolerance is not None
        and verdict.tolerance.estimator is not Estimator.EXACT
    )


def coarseness(tolerances: Iterable[float]) -> str:
    """What a comparison in a coarse precision cannot see; empty for a fine one.

    Args:
        tolerances: Of what passed, relative to the value; without exact ones.
    """
    limits = list(tolerances)
    middle = statistics.median(limits) if limits else 0.0
    if middle < _COARSE:
        return ""
    return (
        f" This is a coarse comparison: half of the tolerances are {middle:.1%} of the "
        "value or more, and smaller errors would not show; compare in a higher "
        "precision to see them."
    )


def _structure_text(difference: StructureDifference) -> str:
    """``blocks.*.attn.drop in the reference only, while blocks.*.attn agrees``."""
    around = difference.around
    if difference.calls:
        agrees = "all else" if around == ROOT_MODULE else f"{around} around it"
        return f"{difference.modules} is {difference.calls}, while {agrees} agrees"
    if difference.present == BOTH_SIDES:
        return (
            f"{difference.modules} is not the same in both runs, while "
            f"{'the model' if around == ROOT_MODULE else around}, behind it, agrees"
        )
    if difference.modules.startswith(f"{around}/"):
        return (
            f"{difference.modules} in the {difference.present} only, while all else of "
            f"{'the model' if around == ROOT_MODULE else around} agrees"
        )
    number = difference.num_inside
    inside = f", with {number} module{'s' * (number > 1)} inside," if number else ""
    return (
        f"{difference.modules}{inside} in the {difference.present} only, while "
        f"{'the model' if around == ROOT_MODULE else around} around it agrees"
    )


def _error(kind: ErrorKind, summary: str) -> RunVerdict:
    return RunVerdict(outcome=Outcome.ERROR, summary=summary, error_kind=kind)
