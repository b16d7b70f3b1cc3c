"""Ranks that have values of their own in both runs, of what was taken for replicas.

Where no run has the tensor whole, no shape refutes that assumption; that each rank has
another value, in the one run as in the other, does.
"""

from collections.abc import Sequence

from ttrace.ir.side import Side
from ttrace.judge.verdicts.replicas import differing_replicas
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict


def skip_apart_in_both(verdicts: Sequence[TensorVerdict]) -> tuple[TensorVerdict, ...]:
    """Skips what fails for nothing but replicas that differ in both runs.

    Args:
        verdicts: One per tensor.
    """
    return tuple(map(_skipped_where_apart, verdicts))


def _skipped_where_apart(verdict: TensorVerdict) -> TensorVerdict:
    result, tolerance = verdict.result, verdict.tolerance
    if verdict.cause is not Cause.REPLICAS or result is None or tolerance is None:
        return verdict
    match = result.plan.match
    layouts = [r.shards[0].layout for r in (match.reference, match.candidate)]
    if not all(layout.assumed_axes for layout in layouts):
        return verdict
    replicas = (result.reference_replicas, result.candidate_replicas)
    if not all(differing_replicas(each, tolerance, exact=False) for each in replicas):
        return verdict
    axes = ", ".join(layouts[1].assumed_axes)
    return TensorVerdict(
        id=verdict.id,
        status=Status.SKIPPED,
        reason=f"{Side.CANDIDATE}: over {axes} each rank has a value of its own, as in "
        f"the reference; {layouts[1].unknown_reason}",
    )
