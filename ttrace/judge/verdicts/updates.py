"""Parameters that a step left as they were in the candidate, but not in the reference.

Adam's first step turns the noise of a small gradient into a whole step of either sign,
so the tolerance of an updated parameter can be as large as its update. That nothing at
all changed needs no tolerance to be seen: it is a comparison within each run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.align import Match
from ttrace.compare.backend import Backend
from ttrace.compare.execute import TensorResult, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import ComparePlan, TensorPlan, plan_comparison
from ttrace.compare.stats import PairStats
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.skipped_step import skipped_steps
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.verdicts.rounded_update import RoundedUpdate

_LEAST_CHANGED = 0.5
"""Share of the reference's elements that must have changed. Where a step is so small
that storage rounds most of it away, a correct candidate may round the rest away too."""


_MOST_ROUNDED = 0.01
"""Share of elements that may still change where an update is rounded away: the
candidate's values and updates are not exactly the reference's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostUpdate:
    """A parameter that did not change in a step of the candidate.

    Attributes:
        num_elements: Elements that were compared with those before the step; none of
            them changed.
        num_changed: Elements that changed in the reference.
        too_coarse: The candidate's dtype, where the reference's update is below its
            resolution beside these values; else None.
    """

    num_elements: int
    num_changed: int
    too_coarse: str | None = None


def lost_updates(
    results: Sequence[TensorResult],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> Mapping[TensorId, LostUpdate]:
    """Finds updated parameters of the candidate that are bit for bit what they were.

    Steps that the candidate's optimizer skipped are left out, and so are parameters
    with NaN or infinities: they stay what they are, whatever a step adds. Only
    parameters that differ from the reference's in most elements are read once more.

    Args:
        results: The comparison of the two runs.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
    """
    skipped = skipped_steps(candidate.info)
    suspects = [
        result.plan.id
        for result in results
        if result.plan.id.kind is Kind.UPDATED_PARAM
        and result.plan.id.step not in skipped
        and result.stats.num_unequal > _LEAST_CHANGED * result.stats.count
        # Where another rank has updated it, it was: that rank's is not handed on.
        and all(replica.is_exact for replica in result.candidate_replicas)
    ]
    unchanged = [
        id_
        for id_, stats in changes_in_step(suspects, candidate, backend).items()
        if stats.count
        and not stats.num_unequal
        and not stats.num_nonfinite_reference  # NaN equals a NaN at the same place
        and not stats.num_nonfinite_candidate
    ]
    return {
        id_: LostUpdate(
            num_elements=stats.count,
            num_changed=stats.num_unequal,
            too_coarse=_too_coarse_dtype(id_, reference, candidate, backend),
        )
        for id_, stats in changes_in_step(unchanged, reference, backend).items()
        if stats.num_unequal > _LEAST_CHANGED * stats.count
    }


def changes_in_step(
    updated: Sequence[TensorId], trace: TraceSource, backend: Backend
) -> Mapping[TensorId, PairStats]:
    """Parameters after a step against the same before it, as far as both are there."""
    info = trace.info
    matches = [
        Match(id=id_, reference=before, candidate=info.tensors[id_])
        for id_ in updated
        if (before := parameter_before(id_, info)) is not None
    ]
    plan = plan_comparison(matches, info, info)
    plan = plan_rows(plan, trace, trace)
    plan = ComparePlan(tensors=tuple(map(_without_replicas, plan.tensors)))
    results = run_plan(plan, trace, trace, backend)
    return {result.plan.id: result.stats for result in results}


def _too_coarse_dtype(
    updated: TensorId, reference: TraceSource, candidate: TraceSource, backend: Backend
) -> str | None:
    """The candidate's dtype, if the reference's update is lost by rounding to it.

    It is if a parameter that is stored in that dtype stays what it is where the
    reference's update is added and the sum is rounded.
    """
    before = parameter_before(updated, reference.info)
    after = reference.info.tensors.get(updated)
    held = candidate.info.tensors.get(updated)
    if before is None or after is None or held is None:
        return None
    coarse, fine = held.shards[0].dtype, after.shards[0].dtype
    epsilon, finer = dtype_named(coarse).epsilon, dtype_named(fine).epsilon
    if epsilon is None or finer is None or epsilon <= finer:
        return None
    rounded = RoundedUpdate(reference, before, after, dtype_named(coarse).numpy)
    if not rounded.is_possible:
        return None
    (stats,) = changes_in_step([updated], rounded, backend).values()
    return coarse if stats.num_unequal <= _MOST_ROUNDED * stats.count else None


def parameter_before(updated: TensorId, info: TraceInfo) -> TensorRecord | None:
    """The parameter before an update: as the one before left it, or at the start."""
    if updated.call:
        return info.tensors.get(replace(updated, call=updated.call - 1))
    before = info.tensors.get(replace(updated, kind=Kind.PARAM))
    if before is not None or not updated.step:
        return before
    of_step = replace(updated, step=updated.step - 1)
    written = info.tensors.get(replace(of_step, kind=Kind.WRITTEN_PARAM))
    if written is not None:
        return written
    while (later := info.tensors.get(of_step)) is not None:
        before, of_step = later, replace(of_step, call=of_step.call + 1)
    return before


def _without_replicas(plan: TensorPlan) -> TensorPlan:
    return replace(
        plan,
        reference_cover=replace(plan.reference_cover, replicas=()),
        candidate_cover=replace(plan.candidate_cover, replicas=()),
    )
