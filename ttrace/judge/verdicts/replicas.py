"""Whether replicas agree: within one run, and as a part of the verdict on two."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.align import is_rank_filtered
from ttrace.compare.backend import Backend
from ttrace.compare.covers import Cover, Covers, Replica
from ttrace.compare.execute import (
    Progress,
    ReplicaResult,
    TensorResult,
    run_replicas,
)
from ttrace.compare.indexed import row_replicas
from ttrace.compare.plan import index_dim_of
from ttrace.ir.kinds import NEEDS_AUTOGRAD, Kind
from ttrace.ir.side import Side
from ttrace.ir.skipped_step import skipped_steps
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.tolerances.limits import Limits
from ttrace.judge.tolerances.tolerance import Tolerance, ToleranceTable

_POSITIVE_NUMBERS = frozenset({Kind.LEARNING_RATE, Kind.GRAD_NORM})


def replicas_agree(
    replica: ReplicaResult, tolerance: Tolerance, *, exact: bool
) -> bool:
    """Whether a replica agrees with the one that stands for its piece.

    Args:
        replica: The replica.
        tolerance: What rounding explains, for activations.
        exact: Every bit must agree (parameters and reduced gradients do in every
            correct run: all replicas apply the same reduced values).
    """
    if exact:
        return replica.is_exact
    return replica.agrees_within(tolerance.difference_norm)


def differing_replicas(
    replicas: Iterable[ReplicaResult], tolerance: Tolerance, *, exact: bool
) -> tuple[ReplicaResult, ...]:
    """Those that do not agree; see ``replicas_agree``."""
    return tuple(
        replica
        for replica in replicas
        if not replicas_agree(replica, tolerance, exact=exact)
    )


def replicas_reason(result: TensorResult, tolerance: Tolerance) -> str | None:
    """Says which replicas differ, the candidate's before the reference's, or None."""
    match = result.plan.match
    for side, record, replicas in (
        (Side.CANDIDATE, match.candidate, result.candidate_replicas),
        (Side.REFERENCE, match.reference, result.reference_replicas),
    ):
        exact = record.shards[0].exact_replicas
        bad = differing_replicas(replicas, tolerance, exact=exact)
        if bad:
            worst = max(bad, key=lambda replica: replica.spread)
            more = f", and {len(bad) - 1} more replicas" if len(bad) > 1 else ""
            return (
                f"replicas differ in the {side}: rank {worst.rank} from rank "
                f"{worst.against} by {worst.spread:.3g}{more}"
                + _values(result, worst, side)
            )
    return None


def _values(result: TensorResult, worst: ReplicaResult, side: Side) -> str:
    """The numbers themselves, where each is one that is never negative."""
    stats = worst.stats
    if result.plan.id.kind not in _POSITIVE_NUMBERS or stats.count != 1:
        return ""
    if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
        return ""
    other, value = Side.CANDIDATE, result.stats.max_abs_candidate
    if side is Side.CANDIDATE:
        other, value = Side.REFERENCE, result.stats.max_abs_reference
    return (
        f": it is {stats.max_abs_candidate:.7g} on rank {worst.rank}, "
        f"{stats.max_abs_reference:.7g} on rank {worst.against}, and {value:.7g} in "
        f"the {other}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCheck:
    """The replicas of one tensor.

    Attributes:
        record: The tensor.
        cover: How its shards cover it.
        results: Every replica against the one it should equal.
        tolerance: What is tolerated, where the replicas need not be equal to the bit.
        are_doubted: That they are replicas was assumed (``ShardLayout.assumed_axes``),
            they are not equal, and all are that are known to be such: each rank may
            have what is its own. Nothing is said of them.
    """

    record: TensorRecord
    cover: Cover
    results: tuple[ReplicaResult, ...]
    tolerance: Tolerance
    are_doubted: bool = False

    @property
    def agrees(self) -> bool:
        """Whether no replica disagrees and no sum lacks a partial."""
        return self.are_doubted or not (self.cover.missing_partials or self.differing)

    @property
    def differing(self) -> tuple[ReplicaResult, ...]:
        """The replicas that do not agree; none where they are doubted to be such."""
        if self.are_doubted:
            return ()
        return differing_replicas(self.results, self.tolerance, exact=self.exact)

    @property
    def allowed_spread(self) -> float:
        """The tolerance, relative to the norm of the tensor."""
        if self.exact or not self.results:
            return 0.0
        return self.tolerance.relative_to(_norm(self.results))

    @property
    def exact(self) -> bool:
        """Whether the replicas must agree in every bit."""
        return self.record.shards[0].exact_replicas

    @property
    def spread(self) -> float:
        """Largest relative difference of two replicas."""
        return max((result.spread for result in self.results), default=0.0)


def check_replicas(
    trace: TraceSource,
    backend: Backend,
    *,
    tolerances: ToleranceTable | None = None,
    progress: Progress | None = None,
) -> list[ReplicaCheck]:
    """Compares the replicas of every tensor that has some, in order of capture.

    Tensors of which a sum lacks a partial are listed too, without results; but not
    where ranks were left out on purpose. Gradients of steps that the optimizer skipped
    are left out: no NaN equals another.

    Args:
        trace: The run.
        backend: Computes the statistics.
        tolerances: What rounding explains; None judges by dtype and depth.
        progress: Called as the comparison proceeds.
    """
    planned: list[_Planned] = []
    filtered = is_rank_filtered(trace.info)
    overflown = skipped_steps(trace.info)
    covers = Covers(trace.info)
    depth = 0
    for record in trace.info.tensors.values():
        if record.id.is_index:
            continue
        if record.id.kind is Kind.OUTPUT:
            depth += 1
        if record.id.kind in NEEDS_AUTOGRAD and record.id.step in overflown:
            continue
        index_dim = index_dim_of(record)
        by_rows = index_dim is not None
        covered = covers.outline(record, by_rows=by_rows).of(record)
        pairs: Sequence[Replica] = covered.replicas
        if index_dim is not None:
            pairs = row_replicas(covered, trace, index_dim)
        if filtered:
            covered = replace(covered, missing_partials=False)
        if pairs or covered.missing_partials:
            planned.append(
                _Planned(record=record, cover=covered, pairs=pairs, depth=depth)
            )
    results = run_replicas(
        [plan.pairs for plan in planned], trace, backend, progress=progress
    )
    limits = Limits.of_runs(
        tolerances or ToleranceTable(), trace.info.tensors, trace.info
    )
    return _with_doubts(
        [
            ReplicaCheck(
                record=plan.record,
                cover=plan.cover,
                results=own,
                tolerance=_tolerance(plan, own, limits),
            )
            for plan, own in zip(planned, results, strict=True)
        ]
    )


def doubted_replicas(checks: Iterable[ReplicaCheck]) -> list[ReplicaCheck]:
    """Those of which it is doubted that they are replicas."""
    return [check for check in checks if check.are_doubted]


def doubted_sentence(doubted: Sequence[ReplicaCheck]) -> str:
    """What to say of them.

    Args:
        doubted: At least one.
    """
    first = doubted[0].record
    return (
        f"of {len(doubted)} more each rank has a value of its own, which may be right, "
        f"first {first.id}: {first.shards[0].layout.unknown_reason}"
    )


def _with_doubts(checks: list[ReplicaCheck]) -> list[ReplicaCheck]:
    """Doubts what was assumed, where nothing that is known is wrong.

    An error of one rank reaches a tensor of which it is known that all have it.
    """

    def is_assumed(check: ReplicaCheck) -> bool:
        return bool(check.record.shards[0].layout.assumed_axes)

    if any(check.differing for check in checks if not is_assumed(check)):
        return checks
    return [
        replace(check, are_doubted=True)
        if is_assumed(check) and check.differing
        else check
        for check in checks
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Planned:
    """A tensor whose replicas are compared.

    Attributes:
        record: The tensor.
        cover: How its shards cover it.
        pairs: Every replica with what it repeats.
        depth: Number of module outputs up to it.
    """

    record: TensorRecord
    cover: Cover
    pairs: Sequence[Replica]
    depth: int


def _tolerance(
    plan: _Planned, results: Sequence[ReplicaResult], limits: Limits
) -> Tolerance:
    dtype = plan.record.shards[0].dtype
    return limits.tolerance_of(
        plan.record.id,
        measured_as=plan.record.id,
        num_elements=sum(result.stats.count for result in _distinct(results)),
        reference_norm=_norm(results),
        dtypes=(dtype, dtype),
        depth=plan.depth,
    )


def _norm(results: Sequence[ReplicaResult]) -> float:
    """Frobenius norm of what has replicas: of the whole tensor, as a rule."""
    norms = [result.stats.reference_norm for result in _distinct(results)]
    return math.hypot(*norms)


def _distinct(results: Sequence[ReplicaResult]) -> Iterable[ReplicaResult]:
    """One replica for each rank that holds a part first: their parts are disjoint."""
    largest: dict[int, ReplicaResult] = {}
    for result in results:
        known = largest.get(result.against)
        if known is None or result.stats.count > known.stats.count:
            largest[result.against] = result
    return largest.values()
