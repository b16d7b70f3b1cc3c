"""Compares again what became another tensor since it was compared."""

from collections.abc import Iterable

from ttrace.compare.align import Match
from ttrace.compare.backend import Backend
from ttrace.compare.execute import TensorResult, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.compare.processes import Processes
from ttrace.compare.second_look import look_again
from ttrace.ir.trace_source import TraceSource


def compare_changed(
    matches: Iterable[Match],
    results: Iterable[TensorResult],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    processes: Processes | None = None,
) -> list[TensorResult]:
    """Keeps the results of matches of the same records, and computes the others.

    Args:
        matches: All that are to be compared.
        results: Of an earlier comparison.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
        processes: Which share the work; None for this one alone.

    Returns:
        One per match, in their order.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    matches = list(matches)
    kept = {result.plan.id: result for result in results}
    changed = []
    for match in matches:
        known = kept.get(match.id)
        if known is None or not (
            known.plan.match.reference is match.reference
            and known.plan.match.candidate is match.candidate
        ):
            changed.append(match)
    plan = plan_comparison(changed, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    again = run_plan(plan, reference, candidate, backend, processes=processes)
    again = look_again(again, reference, candidate, backend)
    kept |= {result.plan.id: result for result in again}
    return [kept[match.id] for match in matches]
