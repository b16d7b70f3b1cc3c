"""One status per tensor, from statistics and tolerances; reads no array."""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ttrace.compare.align import Alignment, Match, Side, Skipped, Unmatched
from ttrace.compare.execute import ReplicaResult, TensorResult
from ttrace.compare.plan import Cover
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.tensor_id import ROOT_MODULE, Kind, Pass, TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.judge.tolerance import Estimator, Tolerance, ToleranceTable

GIVEN_ALIKE = Tolerance(
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
    """Copies of the candidate that must agree do not."""

    SHAPE = "shape"
    """The logical shapes are not the same."""

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
        reason: One sentence; empty for a plain pass.
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
) -> tuple[TensorVerdict, ...]:
    """Gives every tensor of the alignment its status, in the same order.

    Args:
        alignment: All tensors of both traces.
        results: One result per match of the alignment.
        tolerances: What rounding explains.
        reference: The reference, for its precision and completeness.
        candidate: The candidate, likewise.
        allow: Patterns of ids that may be unmatched; they count as skipped.
    """
    by_id = {result.plan.id: result for result in results}
    compute_epsilon = max(map(_compute_epsilon, (reference, candidate)))
    first_step = min((entry.id.step for entry in alignment.entries), default=0)
    verdicts = []
    depth = 0
    for entry in alignment.entries:
        if entry.id.kind is Kind.OUTPUT:
            depth += 1
        if isinstance(entry, Match):
            verdict = _judge_match(
                by_id[entry.id],
                tolerances,
                compute_epsilon=compute_epsilon,
                depth=depth,
                setup=_is_setup(entry.id, first_step),
                filtered_sides={
                    side
                    for side, info in (
                        (Side.REFERENCE, reference),
                        (Side.CANDIDATE, candidate),
                    )
                    if len(info.ranks) < info.ranks[0].world_size
                },
            )
        elif isinstance(entry, Skipped):
            verdict = TensorVerdict(
                id=entry.id, status=Status.SKIPPED, reason=entry.reason
            )
        else:
            verdict = _judge_unmatched(entry)
        verdicts.append(_apply_allow(verdict, allow))
    return tuple(verdicts)


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
        reason=f"only in the {entry.present}",
    )


def _judge_match(
    result: TensorResult,
    tolerances: ToleranceTable,
    *,
    compute_epsilon: float,
    depth: int,
    setup: bool,
    filtered_sides: set[Side],
) -> TensorVerdict:
    plan, stats = result.plan, result.stats
    of_reference = plan.match.reference
    of_candidate = plan.match.candidate
    if plan.shapes_differ:
        return TensorVerdict(
            id=plan.id,
            status=Status.FAILED,
            cause=Cause.SHAPE,
            setup=setup,
            reason=f"logical shapes differ: {list(of_reference.global_shape)} in the "
            f"reference, {list(of_candidate.global_shape)} in the candidate",
        )
    gap = _coverage_gap(plan.reference_cover, plan.candidate_cover, filtered_sides)
    if gap is not None:
        return TensorVerdict(id=plan.id, status=Status.UNMATCHED, reason=gap)
    if stats.count == 0 and math.prod(of_reference.global_shape):
        return TensorVerdict(
            id=plan.id,
            status=Status.SKIPPED,
            reason="the recorded ranks have no part of it in common",
        )
    dtypes = (of_reference.shards[0].dtype, of_candidate.shards[0].dtype)
    if setup and dtypes[0] == dtypes[1]:
        tolerance = GIVEN_ALIKE
    else:
        tolerance = tolerances.tolerance_for(
            of_reference.id,
            num_elements=stats.count,
            reference_norm=stats.reference_norm,
            storage_dtypes=dtypes,
            compute_epsilon=compute_epsilon,
            depth=depth,
        )
    margin = _ratio(stats.difference_norm, tolerance.difference_norm)
    verdict = TensorVerdict(
        id=plan.id,
        status=Status.FAILED,
        setup=setup,
        result=result,
        tolerance=tolerance,
        margin=margin,
    )
    if stats.num_nonfinite_reference:
        return replace(
            verdict,
            cause=Cause.NONFINITE_REFERENCE,
            reason=f"{stats.num_nonfinite_reference} of {stats.count} values of the "
            f"reference are NaN or infinite "
            f"({stats.num_nonfinite_candidate} of the candidate)",
        )
    if stats.num_nonfinite_candidate:
        return replace(
            verdict,
            cause=Cause.NONFINITE_CANDIDATE,
            margin=math.inf,
            reason=f"{stats.num_nonfinite_candidate} of {stats.count} values of the "
            "candidate are NaN or infinite, none of the reference",
        )
    replicas = _worst_replica(result, tolerance)
    if margin > 1:
        limit = tolerance.relative_to(stats.reference_norm)
        reason = f"rel_err {stats.rel_err:.3g} exceeds the tolerance {limit:.3g}"
        if replicas is not None:
            reason += f"; {replicas}"
        return replace(verdict, cause=Cause.ERROR, reason=reason)
    if replicas is not None:
        return replace(verdict, cause=Cause.REPLICAS, reason=replicas)
    return replace(verdict, status=Status.PASSED)


def _worst_replica(result: TensorResult, tolerance: Tolerance) -> str | None:
    """Says which copies of the candidate disagree, or None."""
    exact = result.plan.match.candidate.shards[0].exact_replicas
    bad = [
        replica
        for replica in result.candidate_replicas
        if not replicas_agree(replica, tolerance, exact=exact)
    ]
    if not bad:
        return None
    worst = max(bad, key=lambda replica: replica.spread)
    return (
        f"replicas differ: rank {worst.rank} from rank {worst.against} by "
        f"{worst.spread:.3g}"
        + (f", and {len(bad) - 1} more copies" if len(bad) > 1 else "")
    )


def replicas_agree(
    replica: ReplicaResult, tolerance: Tolerance | None, *, exact: bool
) -> bool:
    """Whether a copy agrees with the one that stands for its piece.

    Args:
        replica: The copy.
        tolerance: What rounding explains, for activations; None allows nothing.
        exact: Every bit must agree (parameters and reduced gradients do in every
            correct run: all replicas apply the same reduced values).
    """
    if exact or tolerance is None:
        return replica.stats.num_unequal == 0
    if math.isinf(replica.spread):
        return False
    return replica.stats.difference_norm <= tolerance.difference_norm


def _coverage_gap(
    reference: Cover, candidate: Cover, filtered_sides: set[Side]
) -> str | None:
    for side, cover in ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate)):
        if cover.num_uncovered and side not in filtered_sides:
            why = (
                "a rank's addend of a pending sum is missing"
                if cover.missing_partials
                else "no rank holds them"
            )
            return f"{cover.num_uncovered} elements are missing in the {side}: {why}"
    return None


def _ratio(error: float, tolerance: float) -> float:
    if error == 0:
        return 0.0
    return error / tolerance if tolerance else math.inf


def _is_setup(tensor_id: TensorId, first_step: int) -> bool:
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
