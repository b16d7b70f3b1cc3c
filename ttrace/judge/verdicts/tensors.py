"""A verdict for every tensor, from statistics and tolerances; reads no array."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.align import (
    Alignment,
    GivenOtherwise,
    Match,
    OneSidedSkip,
    Skipped,
    Unmatched,
    is_rank_filtered,
)
from ttrace.compare.execute import TensorResult
from ttrace.compare.layouts.per_device_values import per_device_mismatch_reason
from ttrace.compare.rows import RowMatch
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import NEEDS_AUTOGRAD, Kind
from ttrace.ir.side import Side
from ttrace.ir.skipped_step import UPDATE_KINDS, skipped_steps
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.judge.tolerances.limits import Limits
from ttrace.judge.tolerances.scalar_sums import ScalarSum, scalar_sums
from ttrace.judge.tolerances.setup import is_script_scalar
from ttrace.judge.tolerances.tolerance import Tolerance, ToleranceTable
from ttrace.judge.verdicts.allowances import Allowance, Allowed, allowances_of
from ttrace.judge.verdicts.finiteness import (
    NONFINITE,
    infinities_note,
    nonfinite_failure,
)
from ttrace.judge.verdicts.forms import (
    MASK_TOLERANCE,
    form_note,
    mask_failure,
    noise_of_broadcast,
    num_elements_of,
    shapes_sentence,
    without_sums,
)
from ttrace.judge.verdicts.initial_replicas import blame_candidate
from ttrace.judge.verdicts.replicas import replicas_reason
from ttrace.judge.verdicts.routing import rows_difference, rows_in_part, rows_obstacle
from ttrace.judge.verdicts.updates import LostUpdate
from ttrace.judge.verdicts.verdict import Cause, PartReason, Status, TensorVerdict


def judge(
    alignment: Alignment,
    results: Iterable[TensorResult],
    tolerances: ToleranceTable,
    reference: TraceInfo,
    candidate: TraceInfo,
    *,
    allow: Allowed = (),
    lost_updates: Mapping[TensorId, LostUpdate] | None = None,
) -> tuple[TensorVerdict, ...]:
    """Gives every tensor of the alignment its status, in the same order.

    Args:
        alignment: All tensors of both traces.
        results: One result per match of the alignment.
        tolerances: What rounding explains.
        reference: The reference, for its precision and completeness.
        candidate: The candidate, likewise.
        allow: What may be unmatched; it counts as skipped.
        lost_updates: Parameters that a step left as they were in the candidate only.
    """
    by_id = {result.plan.id: result for result in results}
    allowances = allowances_of(allow)
    sides = ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate))
    context = _Context(
        limits=Limits.of_runs(
            tolerances, (entry.id for entry in alignment.entries), reference, candidate
        ),
        filtered_sides=frozenset(s for s, info in sides if is_rank_filtered(info)),
        infos=dict(sides),
        filters=tuple(
            CaptureFilter.from_json(dict(info.ranks[0].capture)) for _, info in sides
        ),
        skipped_steps={side: skipped_steps(info) for side, info in sides},
        sums=scalar_sums(
            {id_: record.global_shape for id_, record in reference.tensors.items()}
        ),
    )
    verdicts = []
    broadcast: set[TensorId] = set()
    depth = 0
    diverged_in: int | None = None
    has_setup_failed = False
    for entry in alignment.entries:
        if entry.id.kind is Kind.OUTPUT:
            depth += 1
        if isinstance(entry, Match):
            result = by_id[entry.id]
            verdict = _judge_match(result, context, depth=depth)
            verdict = without_sums(verdict, result, broadcast)
            if result.broadcast_shape and verdict.status is Status.PASSED:
                broadcast.add(entry.id)
            lost = (lost_updates or {}).get(entry.id)
            if lost is not None:
                verdict = _without_update(verdict, lost)
        elif isinstance(entry, Skipped):
            verdict = TensorVerdict(
                id=entry.id,
                status=Status.SKIPPED,
                reason=entry.reason,
                excused=context.excuses(entry.id),
            )
        elif isinstance(entry, OneSidedSkip):
            verdict = TensorVerdict(
                id=entry.id,
                status=Status.FAILED,
                cause=Cause.ONE_SIDED_SKIP,
                reason=f"only in the {entry.side}: {entry.reason}",
            )
        elif isinstance(entry, GivenOtherwise):
            verdict = TensorVerdict(
                id=entry.id,
                status=Status.FAILED,
                cause=Cause.SAMPLES,
                setup=True,
                reason=entry.reason,
            )
        else:
            verdict = _judge_unmatched(entry)
        # What samples a step has, its own micro-batches do not decide.
        is_data = isinstance(entry, GivenOtherwise) and entry.id.step == diverged_in
        may_follow = not (diverged_in is None or has_setup_failed or is_data)
        if may_follow and verdict.setup and verdict.id.kind is Kind.INPUT:
            verdict = replace(verdict, setup=False)
        if verdict.status is Status.FAILED:
            has_setup_failed = has_setup_failed or verdict.setup
            # What comes after other data or parameters is no divergence.
            if not has_setup_failed and diverged_in is None:
                diverged_in = entry.id.step
        verdicts.append(_apply_allow(verdict, allowances))
    return tuple(blame_candidate(verdicts))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What all tensors of a comparison are judged by.

    Attributes:
        limits: What every tensor is tolerated.
        filtered_sides: Runs that left ranks out on purpose.
        infos: Both runs.
        filters: What they were asked to record.
        skipped_steps: Steps that either optimizer skipped, with the reason.
        sums: What scalars sum up, by the reference's id.
    """

    limits: Limits
    filtered_sides: frozenset[Side]
    infos: Mapping[Side, TraceInfo]
    filters: Sequence[CaptureFilter]
    skipped_steps: Mapping[Side, Mapping[int, str]]
    sums: Mapping[TensorId, ScalarSum]

    def excuses(self, tensor_id: TensorId) -> bool:
        """Whether the user, or a skipped step, explains that it is not compared."""
        if not all(capture.wants(tensor_id) for capture in self.filters):
            return True
        if tensor_id.kind in UPDATE_KINDS and any(
            tensor_id.step in steps for steps in self.skipped_steps.values()
        ):
            return True
        for side, info in self.infos.items():
            skipped = info.skipped.get(tensor_id)
            if skipped is not None and skipped.is_ignored:
                return True
            if side in self.filtered_sides and skipped is None:
                if tensor_id not in info.tensors:
                    return True
        return False


def _apply_allow(
    verdict: TensorVerdict, allowances: Sequence[Allowance]
) -> TensorVerdict:
    if verdict.status is not Status.UNMATCHED:
        return verdict
    for allowance in allowances:
        if allowance.allows(verdict.id):
            return replace(
                verdict,
                status=Status.SKIPPED,
                reason=f"{verdict.reason}; allowed by {allowance.grounds}",
                excused=True,
                allowed=allowance.grounds,
            )
    return verdict


def _judge_unmatched(entry: Unmatched) -> TensorVerdict:
    return TensorVerdict(
        id=entry.id,
        status=Status.UNMATCHED,
        reason=f"only in the {entry.present}"
        + (f": {entry.reason}" if entry.reason else ""),
        present=entry.present,
        beyond=entry.beyond,
    )


def _judge_match(
    result: TensorResult, context: _Context, *, depth: int
) -> TensorVerdict:
    plan, stats = result.plan, result.stats
    of_reference = plan.match.reference
    of_candidate = plan.match.candidate
    setup = context.limits.is_given(plan.id) and not is_script_scalar(
        plan.id, of_reference.global_shape
    )
    apart = per_device_mismatch_reason(plan.match)
    if apart is not None:
        return TensorVerdict(id=plan.id, status=Status.SKIPPED, reason=apart)
    if plan.shapes_differ and result.broadcast_shape is None:
        return _of_other_shape(result, setup=setup)
    incomparable = _incomparable_verdict(result, context)
    if incomparable is not None:
        return incomparable
    overflow = context.skipped_steps[Side.REFERENCE].get(plan.id.step)
    if overflow and stats.num_nonfinite_reference and plan.id.kind in NEEDS_AUTOGRAD:
        return TensorVerdict(
            id=plan.id,
            status=Status.SKIPPED,
            reason=f"{Side.REFERENCE}: {overflow}",
            excused=True,
        )
    # Before the first output nothing is computed.
    may_be_computed = setup and plan.id.kind is Kind.INPUT and depth > 0
    tolerance = context.limits.tolerance_of(
        plan.id,
        measured_as=of_reference.id,
        num_elements=stats.count,
        reference_norm=stats.reference_norm,
        dtypes=(of_reference.shards[0].dtype, of_candidate.shards[0].dtype),
        depth=depth,
        may_be_computed=may_be_computed,
        noise=noise_of_broadcast(
            result, context.limits.tolerances.noise.get(of_reference.id)
        ),
        summed=context.sums.get(of_reference.id),
    )
    if result.mask_notations is not None:
        tolerance = MASK_TOLERANCE
    margin = _ratio(stats.difference_norm, tolerance.difference_norm)
    failure = _failure(result, tolerance, margin, complete=not context.filtered_sides)
    if failure is not None and plan.shapes_differ:
        return _of_other_shape(result, setup=setup)
    notes = (_note(result, context), form_note(result), infinities_note(stats))
    cause, reason = failure or (None, "; ".join(filter(None, notes)))
    # What is not finite has no part in the error that the margin is made of.
    nonfinite = cause in NONFINITE
    return TensorVerdict(
        id=plan.id,
        status=Status.PASSED if failure is None else Status.FAILED,
        setup=setup,
        result=result,
        tolerance=tolerance,
        margin=math.inf if nonfinite else margin,
        part=_part_reason(result, context),
        cause=cause,
        reason=reason,
    )


def _of_other_shape(result: TensorResult, *, setup: bool) -> TensorVerdict:
    return TensorVerdict(
        id=result.plan.id,
        status=Status.FAILED,
        cause=Cause.SHAPE,
        setup=setup,
        reason=shapes_sentence(result),
    )


def _part_reason(result: TensorResult, context: _Context) -> PartReason | None:
    """Why the elements compared are not all there are, or None if they are.

    Of a tensor whose rows depend on data, only the rows that a run has are there: the
    others are positions that nothing was sent to.
    """
    if not context.filtered_sides:
        return None
    if result.rows is not None:
        return PartReason.ROWS if rows_in_part(result.rows) else None
    num_elements = num_elements_of(result)
    return PartReason.RANKS if result.stats.count < num_elements else None


def _note(result: TensorResult, context: _Context) -> str:
    """What there is to say of a tensor that passes; empty for a plain pass."""
    if result.rows is not None:
        if context.filtered_sides:
            return rows_in_part(result.rows) or ""
        return rows_difference(result.rows) or ""
    num_elements = num_elements_of(result)
    if result.stats.count == num_elements:
        return ""
    return (
        f"in part: the recorded ranks have {result.stats.count} of {num_elements} "
        "elements in common"
    )


def _without_update(verdict: TensorVerdict, lost: LostUpdate) -> TensorVerdict:
    reason = (
        f"none of its {lost.num_elements} elements changed in this step; "
        f"{lost.num_changed} did in the reference"
    )
    cause = Cause.LOST_UPDATE
    if lost.too_coarse is not None:
        cause = Cause.ROUNDED_UPDATE
        reason += (
            ", by less than the candidate's "
            f"{lost.too_coarse} can tell beside these values"
        )
    if verdict.reason:
        reason += f"; {verdict.reason}"
    return replace(verdict, status=Status.FAILED, cause=cause, reason=reason)


def _failure(
    result: TensorResult, tolerance: Tolerance, margin: float, *, complete: bool
) -> tuple[Cause, str] | None:
    """Why a compared tensor fails, with a sentence; None if it passes.

    Args:
        result: The figures.
        tolerance: What is tolerated.
        margin: Error over tolerance.
        complete: Neither run left ranks out.
    """
    stats = result.stats
    nonfinite = nonfinite_failure(result.plan.id.kind, stats)
    if nonfinite is not None:
        return nonfinite
    if result.mask_notations is not None:
        return mask_failure(result)
    if result.rows is not None and complete:
        obstacle = rows_obstacle(result.rows)
        if obstacle is not None:
            return Cause.ROUTING, obstacle
    replicas = replicas_reason(result, tolerance)
    if margin > 1:
        limit = tolerance.relative_to(stats.reference_norm)
        reason = f"rel_err {stats.rel_err:.3g} exceeds the tolerance {limit:.3g}"
        if result.plan.id.kind is Kind.LEARNING_RATE and stats.count == 1:
            rates = stats.max_abs_candidate, stats.max_abs_reference
            reason += ": it is {:.7g}, and {:.7g} in the reference".format(*rates)
        if result.rows is not None and complete:
            difference = rows_difference(result.rows)
            if difference is not None:
                return Cause.ROUTING, f"{difference}; {reason}"
        return Cause.ERROR, reason if replicas is None else f"{reason}; {replicas}"
    return None if replicas is None else (Cause.REPLICAS, replicas)


def _incomparable_verdict(
    result: TensorResult, context: _Context
) -> TensorVerdict | None:
    """The verdict on a tensor whose elements are not there to compare, or None."""
    plan = result.plan
    for side, cover, missing in (
        (Side.REFERENCE, plan.reference_cover, plan.ranks_missing_in_reference),
        (Side.CANDIDATE, plan.candidate_cover, plan.ranks_missing_in_candidate),
    ):
        if side in context.filtered_sides:
            continue
        skipped = context.infos[side].skipped.get(plan.id)
        if not (cover.num_uncovered or cover.missing_partials):
            if missing and skipped is None:
                return _without_replicas(plan.id, side, missing)
            continue
        if skipped is not None:
            return TensorVerdict(
                id=plan.id,
                status=Status.SKIPPED,
                reason=f"{side}, on some ranks: {skipped.reason}",
            )
        if cover.missing_partials:
            reason = "a rank's partial of a sum is missing"
        else:
            reason = "no rank holds them"
        num_missing = cover.num_uncovered
        what = (
            f"{num_missing} elements are missing"
            if num_missing
            else "a replica is missing"
        )
        return TensorVerdict(
            id=plan.id,
            status=Status.UNMATCHED,
            reason=f"{what} in the {side}: {reason}",
        )
    if result.stats.count:
        return None
    if result.rows is not None:
        return _without_common_rows(plan.id, result.rows, context)
    is_empty = math.prod(plan.match.reference.global_shape) == 0
    return TensorVerdict(
        id=plan.id,
        status=Status.SKIPPED,
        reason="it has no elements"
        if is_empty
        else "the recorded ranks have no part of it in common",
        excused=True,
    )


def _without_replicas(
    tensor_id: TensorId, side: Side, missing: Sequence[int]
) -> TensorVerdict:
    ranks = ("rank " if len(missing) == 1 else "ranks ") + ", ".join(map(str, missing))
    return TensorVerdict(
        id=tensor_id,
        status=Status.UNMATCHED,
        reason=f"a replica is missing in the {side}: {ranks} recorded none, where "
        "others that run the same modules did",
    )


def _without_common_rows(
    tensor_id: TensorId, rows: RowMatch, context: _Context
) -> TensorVerdict:
    obstacle = None if context.filtered_sides else rows_obstacle(rows)
    if obstacle is not None:
        return TensorVerdict(
            id=tensor_id, status=Status.FAILED, cause=Cause.ROUTING, reason=obstacle
        )
    return TensorVerdict(
        id=tensor_id,
        status=Status.SKIPPED,
        reason=rows_in_part(rows) or "neither run has any row of it",
        excused=True,
    )


def _ratio(error: float, tolerance: float) -> float:
    if error == 0:
        return 0.0
    # An error beyond float64 is no rounding, even where the tolerance overflows too.
    return error / tolerance if tolerance and math.isfinite(error) else math.inf
