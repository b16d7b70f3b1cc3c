"""Runs cases and says of each whether it passed."""

import time
from dataclasses import dataclass

from ttrace.errors import TtraceError
from ttrace.examples.layout_matrix.cases import Case
from ttrace.examples.main_job import Launch, MainJob
from ttrace.report.model import Outcome, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One row.

    Attributes:
        name: Of the case.
        verdict: ``pass``, ``diverged`` or ``error``.
        num_compared: Tensors that were compared.
        num_skipped: Tensors that no rule lays out.
        num_unmatched: Tensors that only one run has.
        margin: Largest relative error over tolerance, None where nothing was compared.
        at: Id of the tensor with that margin.
        seconds: How long it took, the reference included if it was the first.
        reason: Why it did not pass; empty if it did.
    """

    name: str
    verdict: str
    num_compared: int
    num_skipped: int
    num_unmatched: int
    margin: float | None
    at: str
    seconds: float
    reason: str

    @property
    def passed(self) -> bool:
        """No false alarm, and nothing that has no counterpart."""
        return self.verdict == Outcome.PASS and self.num_unmatched == 0


def run_case(case: Case, job: MainJob) -> CaseResult:
    """Compares a case's layout with one process; a failed run is a row that says so."""
    started = time.monotonic()
    reference = Launch(script=case.script, options=case.model)
    candidate = Launch(
        script=case.script,
        options=(*case.model, *case.layout),
        world_size=case.world_size,
    )
    try:
        report = job.check(reference, candidate)
    except TtraceError as error:
        return CaseResult(
            name=case.name,
            verdict=Outcome.ERROR.value,
            num_compared=0,
            num_skipped=0,
            num_unmatched=0,
            margin=None,
            at="",
            seconds=time.monotonic() - started,
            reason=str(error),
        )
    return _judge(case, report, time.monotonic() - started)


def _judge(case: Case, report: Report, seconds: float) -> CaseResult:
    margins = {
        tensor.id: tensor.margin
        for tensor in report.tensors
        if tensor.margin is not None
    }
    at = max(margins, key=lambda id_: margins[id_], default="")
    first = report.first_divergence
    return CaseResult(
        name=case.name,
        verdict=report.verdict.value,
        num_compared=report.counts.passed + report.counts.failed,
        num_skipped=report.counts.skipped,
        num_unmatched=report.counts.unmatched,
        margin=margins.get(at),
        at=at,
        seconds=seconds,
        reason=first.sentence if first else "",
    )
