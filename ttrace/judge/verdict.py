"""One status per tensor, from statistics and tolerances; reads no array."""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ttrace.compare.align import (
    Alignment,
    Match,
    OneSidedSkip,
    Skipped,
    Unmatched,
    is_rank_filtered,
)
from ttrace.compare.execute import ReplicaResult, TensorResult
from ttrace.compare.indexed import RowMatch
from ttrace.compare.per_device_values import per_device_mismatch_reason
from ttrace.compare.updates import LostUpdate
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.side import Side
from ttrace.ir.skipped_step import GRADIENT_KINDS, skipped_steps
from ttrace.ir.tensor_id import ROOT_MODULE, Kind, Pass, TensorId
from ttrace.ir.trace import SkippedRecord, TraceInfo
from ttrace.judge.routing import rows_difference, rows_in_part, rows_obstacle
from ttrace.judge.tolerance import Estimator, Tolerance, ToleranceTable

SETUP_TOLERANCE = Tolerance(
    difference_norm=0.0,
    estimator=Estimator.EXACT,
    derivation="both runs must be given the same parameters and inputs",
)
"""The tolerance of what comes before any computation."""


class Status(StrEnum):
    """What became of a tensor; every tensor of either trace gets exactly one."""

    PASSED = "passed"
    FAILED = "failed"
    UNMATCHED = "unmatched"
    SKIPPED = "skipped"


class Cause(StrEnum):
    """Why a tensor failed."""

    ERROR = "error"
    """The difference exceeds the tolerance."""

    REPLICAS = "replicas"
    """Copies that must agree do not."""

    ROUTING = "routing"
    """Rows that depend on data are not the same, and noise does not explain it."""

    SHAPE = "shape"
    """The logical shapes are not the same."""

    LOST_UPDATE = "lost_update"
    """A parameter changed in a step of the reference, and not at all in this one."""

    ONE_SIDED_SKIP = "one_sided_skip"
    """The optimizer skipped the step in one run, and not in the other."""

    NONFINITE_CANDIDATE = "nonfinite_candidate"
    """NaN or infinity in the candidate where the reference has a number."""

    NONFINITE_REFERENCE = "nonfinite_reference"
    """NaN or infinity in the reference: it cannot be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorVerdict:
    """The judgement of one tensor.

    Attributes:
        id: Its identity.
        status: What became of it.
        reason: One sentence; empty for a plain pass of the whole tensor.
        cause: Why it failed; None unless it did.
        setup: It belongs to what the runs were given (initial parameters, inputs): a
            difference here is not a bug of the computation.
        result: The figures; None where nothing was compared.
        tolerance: What was tolerated; None where nothing was compared.
        margin: Error over tolerance; above 1 is a divergence. None where nothing was
            compared, infinite where nothing was tolerated.
    """

    id: TensorId
    status: Status
    reason: str = ""
    cause: Cause | None = None
    setup: bool = False
    result: TensorResult | None = None
    tolerance: Tolerance | None = None
    margin: float | None = None


def judge(
    alignment: Alignment,
    results: Iterable[TensorResult],
    tolerances: ToleranceTable,
    reference: TraceInfo,
    candidate: TraceInfo,
    *,
    allow: Sequence[str] = (),
    lost_updates: Mapping[TensorId, LostUpdate] | None = None,
) -> tuple[TensorVerdict, ...]:
    """Gives every tensor of the alignment its status, in the same order.

    Args:
        alignment: All tensors of both traces.
        results: One result per match of the alignment.
        tolerances: What rounding explains.
        reference: The reference, for its precision and completeness.
        candidate: The candidate, likewise.
        allow: Patterns of ids that may be unmatched; they count as skipped.
        lost_updates: Parameters that a step left as they were in the candidate only.
    """
    by_id = {result.plan.id: result for result in results}
    sides = ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate))
    context = _Context(
        tolerances=tolerances,
        compute_epsilon=max(map(_compute_epsilon, (reference, candidate))),
        first_step=_first_step(alignment, reference, candidate),
        filtered_sides=frozenset(s for s, info in sides if is_rank_filtered(info)),
        skipped={side: info.skipped for side, info in sides},
        skipped_steps=skipped_steps(reference),
    )
    verdicts = []
    depth = 0
    for entry in alignment.entries:
        if entry.id.kind is Kind.OUTPUT:
            depth += 1
        if isinstance(entry, Match):
            verdict = _judge_match(by_id[entry.id], context, depth=depth)
            lost = (lost_updates or {}).get(entry.id)
            if lost is not None:
                verdict = _without_update(verdict, lost)
        elif isinstance(entry, Skipped):
            verdict = TensorVerdict(
                id=entry.id, status=Status.SKIPPED, reason=entry.reason
            )
        elif isinstance(entry, OneSidedSkip):
            verdict = TensorVerdict(
                id=entry.id,
                status=Status.FAILED,
                cause=Cause.ONE_SIDED_SKIP,
                reason=f"only in the {entry.side}: {entry.reason}",
            )
        else:
            verdict = _judge_unmatched(entry)
        verdicts.append(_apply_allow(verdict, allow))
    return tuple(verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What all tensors of a comparison are judged by.

    Attributes:
        tolerances: What rounding explains.
        compute_epsilon: Epsilon of the coarsest dtype of either run's outputs.
        first_step: The first step of either run; None for two checkpoints, whose
            parameters no run was given.
        filtered_sides: Runs that left ranks out on purpose.
        skipped: What the ranks of either run saw and did not record.
        skipped_steps: Steps that the reference's optimizer skipped, with the reason.
    """

    tolerances: ToleranceTable
    compute_epsilon: float
    first_step: int | None
    filtered_sides: frozenset[Side]
    skipped: Mapping[Side, Mapping[TensorId, SkippedRecord]]
    skipped_steps: Mapping[int, str]


def _apply_allow(verdict: TensorVerdict, allow: Sequence[str]) -> TensorVerdict:
    if verdict.status is not Status.UNMATCHED:
        return verdict
    for pattern in allow:
        if fnmatch.fnmatchcase(str(verdict.id), pattern):
            return replace(
                verdict,
                status=Status.SKIPPED,
                reason=f"{verdict.reason}; allowed by --allow {pattern}",
            )
    return verdict


def _judge_unmatched(entry: Unmatched) -> TensorVerdict:
    return TensorVerdict(
        id=entry.id,
        status=Status.UNMATCHED,
        reason=f"only in the {entry.present}"
        + (f": {entry.reason}" if entry.reason else ""),
    )


def _judge_match(
    result: TensorResult, context: _Context, *, depth: int
) -> TensorVerdict:
    plan, stats = result.plan, result.stats
    of_reference = plan.match.reference
    of_candidate = plan.match.candidate
    setup = _is_setup(plan.id, context.first_step)
    apart = per_device_mismatch_reason(plan.match)
    if apart is not None:
        return TensorVerdict(id=plan.id, status=Status.SKIPPED, reason=apart)
    if plan.shapes_differ:
        return TensorVerdict(
            id=plan.id,
            status=Status.FAILED,
            cause=Cause.SHAPE,
            setup=setup,
            reason=f"logical shapes differ: {list(of_reference.global_shape)} in the "
            f"reference, {list(of_candidate.global_shape)} in the candidate",
        )
    incomparable = _incomparable_verdict(result, context)
    if incomparable is not None:
        return incomparable
    overflow = context.skipped_steps.get(plan.id.step)
    if overflow and stats.num_nonfinite_reference and plan.id.kind in GRADIENT_KINDS:
        return TensorVerdict(
            id=plan.id, status=Status.SKIPPED, reason=f"{Side.REFERENCE}: {overflow}"
        )
    dtypes = (of_reference.shards[0].dtype, of_candidate.shards[0].dtype)
    if setup and dtypes[0] == dtypes[1]:
        tolerance = SETUP_TOLERANCE
    else:
        tolerance = context.tolerances.tolerance_for(
            of_reference.id,
            num_elements=stats.count,
            reference_norm=stats.reference_norm,
            storage_dtypes=dtypes,
            compute_epsilon=context.compute_epsilon,
            depth=depth,
        )
    margin = _ratio(stats.difference_norm, tolerance.difference_norm)
    failure = _failure(result, tolerance, margin, complete=not context.filtered_sides)
    verdict = TensorVerdict(
        id=plan.id,
        status=Status.PASSED if failure is None else Status.FAILED,
        setup=setup,
        result=result,
        tolerance=tolerance,
        margin=margin,
    )
    if failure is not None:
        cause, reason = failure
        # What is not finite has no part in the error that the margin is made of.
        nonfinite = cause in (Cause.NONFINITE_REFERENCE, Cause.NONFINITE_CANDIDATE)
        return replace(
            verdict,
            cause=cause,
            reason=reason,
            margin=math.inf if nonfinite else margin,
        )
    if result.rows is not None:
        if context.filtered_sides:
            note = rows_in_part(result.rows)
        else:
            note = rows_difference(result.rows)
        return replace(verdict, reason=note or "")
    num_elements = math.prod(of_reference.global_shape)
    if stats.count < num_elements:
        reason = (
            f"in part: the recorded ranks have {stats.count} of {num_elements} "
            "elements in common"
        )
        return replace(verdict, reason=reason)
    return verdict


def _without_update(verdict: TensorVerdict, lost: LostUpdate) -> TensorVerdict:
    reason = (
        f"none of its {lost.num_elements} elements changed in this step; "
        f"{lost.num_changed} did in the reference"
    )
    if verdict.reason:
        reason += f"; {verdict.reason}"
    return replace(
        verdict, status=Status.FAILED, cause=Cause.LOST_UPDATE, reason=reason
    )


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
    if stats.num_nonfinite_reference:
        return Cause.NONFINITE_REFERENCE, (
            f"{stats.num_nonfinite_reference} of {stats.count} values of the reference "
            f"are NaN or infinite ({stats.num_nonfinite_candidate} of the candidate)"
        )
    if stats.num_nonfinite_candidate:
        return Cause.NONFINITE_CANDIDATE, (
            f"{stats.num_nonfinite_candidate} of {stats.count} values of the candidate "
            "are NaN or infinite, none of the reference"
        )
    if result.rows is not None and complete:
        obstacle = rows_obstacle(result.rows)
        if obstacle is not None:
            return Cause.ROUTING, obstacle
    replicas = _worst_replica(result, tolerance)
    if margin > 1:
        limit = tolerance.relative_to(stats.reference_norm)
        reason = f"rel_err {stats.rel_err:.3g} exceeds the tolerance {limit:.3g}"
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
    for side, cover, silent in (
        (Side.REFERENCE, plan.reference_cover, plan.silent_in_reference),
        (Side.CANDIDATE, plan.candidate_cover, plan.silent_in_candidate),
    ):
        if side in context.filtered_sides:
            continue
        skipped = context.skipped[side].get(plan.id)
        if not (cover.num_uncovered or cover.missing_partials):
            if silent and skipped is None:
                return _without_copies(plan.id, side, silent)
            continue
        if skipped is not None:
            return TensorVerdict(
                id=plan.id,
                status=Status.SKIPPED,
                reason=f"{side}, on some ranks: {skipped.reason}",
            )
        if cover.missing_partials:
            why = "a rank's partial of a pending sum is missing"
        else:
            why = "no rank holds them"
        num_missing = cover.num_uncovered
        what = (
            f"{num_missing} elements are missing"
            if num_missing
            else "a copy is missing"
        )
        return TensorVerdict(
            id=plan.id,
            status=Status.UNMATCHED,
            reason=f"{what} in the {side}: {why}",
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
    )


def _without_copies(
    tensor_id: TensorId, side: Side, silent: Sequence[int]
) -> TensorVerdict:
    ranks = ("rank " if len(silent) == 1 else "ranks ") + ", ".join(map(str, silent))
    return TensorVerdict(
        id=tensor_id,
        status=Status.UNMATCHED,
        reason=f"a copy is missing in the {side}: {ranks} recorded none, where others "
        "that run the same modules did",
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
    )


def _worst_replica(result: TensorResult, tolerance: Tolerance) -> str | None:
    """Says which copies disagree, the candidate's before the reference's, or None."""
    match = result.plan.match
    for side, record, replicas in (
        (Side.CANDIDATE, match.candidate, result.candidate_replicas),
        (Side.REFERENCE, match.reference, result.reference_replicas),
    ):
        exact = record.shards[0].exact_replicas
        bad = [r for r in replicas if not replicas_agree(r, tolerance, exact=exact)]
        if bad:
            worst = max(bad, key=lambda replica: replica.spread)
            more = f", and {len(bad) - 1} more copies" if len(bad) > 1 else ""
            return (
                f"replicas differ in the {side}: rank {worst.rank} from rank "
                f"{worst.against} by {worst.spread:.3g}{more}"
            )
    return None


def replicas_agree(
    replica: ReplicaResult, tolerance: Tolerance, *, exact: bool
) -> bool:
    """Whether a copy agrees with the one that stands for its piece.

    Args:
        replica: The copy.
        tolerance: What rounding explains, for activations.
        exact: Every bit must agree (parameters and reduced gradients do in every
            correct run: all replicas apply the same reduced values).
    """
    if exact:
        return replica.is_exact
    return replica.agrees_within(tolerance.difference_norm)


def _ratio(error: float, tolerance: float) -> float:
    if error == 0:
        return 0.0
    # An error beyond float64 is no rounding, even where the tolerance overflows too.
    return error / tolerance if tolerance and math.isfinite(error) else math.inf


def _first_step(
    alignment: Alignment, reference: TraceInfo, candidate: TraceInfo
) -> int | None:
    if reference.is_checkpoint and candidate.is_checkpoint:
        return None
    return min((entry.id.step for entry in alignment.entries), default=0)


def _is_setup(tensor_id: TensorId, first_step: int | None) -> bool:
    """Initial parameters and what the model itself was given."""
    if tensor_id.kind is Kind.PARAM:
        return tensor_id.step == first_step
    return (
        tensor_id.kind is Kind.INPUT
        and tensor_id.module == ROOT_MODULE
        and tensor_id.pass_ is Pass.FORWARD
    )


def _compute_epsilon(info: TraceInfo) -> float:
    """Epsilon of the coarsest dtype among the outputs of a run."""
    outputs = {
        shard.dtype
        for record in info.tensors.values()
        if record.id.kind is Kind.OUTPUT
        for shard in record.shards
    }
    epsilons = [dtype_named(name).epsilon for name in outputs]
    return max((e for e in epsilons if e is not None), default=0.0)


def count_statuses(verdicts: Iterable[TensorVerdict]) -> Mapping[Status, int]:
    """Number of tensors per status; every status has an entry."""
    counts = dict.fromkeys(Status, 0)
    for verdict in verdicts:
        counts[verdict.status] += 1
    return counts
