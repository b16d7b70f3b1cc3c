"""Carries a plan out: reads blocks, feeds a backend, merges statistics per tensor."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.backend import ArrayPair, Backend
from ttrace.compare.plan import ComparePlan, Cover, Operand, PairPlan, TensorPlan
from ttrace.compare.stats import PairStats
from ttrace.ir.layout import Region
from ttrace.ir.views import block_view
from ttrace.store.reader import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaResult:
    """How one copy of a part of a tensor differs from the copy that stands for it.

    Attributes:
        rank: The rank whose copy it is.
        against: The rank it should agree with.
        stats: Of this copy (candidate) against that one (reference).
    """

    rank: int
    against: int
    stats: PairStats

    @property
    def spread(self) -> float:
        """Relative Frobenius difference of the two copies.

        Infinite if one has a NaN, or if they differ and one has an infinity.
        """
        return math.inf if self._is_not_finite else self.stats.rel_err

    @property
    def is_exact(self) -> bool:
        """Whether the two copies are numbers and equal, every one of them."""
        return self.stats.num_unequal == 0 and not self._is_not_finite

    def agrees_within(self, difference_norm: float) -> bool:
        """Whether the Frobenius norm of the difference is at most that."""
        return not self._is_not_finite and self.stats.difference_norm <= difference_norm

    @property
    def _is_not_finite(self) -> bool:
        stats = self.stats
        if stats.num_nan_reference or stats.num_nan_candidate:
            return True
        num_infinities = stats.num_inf_reference + stats.num_inf_candidate
        return num_infinities > 0 and stats.num_unequal > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorResult:
    """What the comparison of one tensor gave.

    Attributes:
        plan: What was compared.
        stats: Candidate against reference over the whole tensor.
        max_abs_diff_at: Global index of the largest absolute difference, or None.
        rank_stats: The same statistics for the part that each candidate rank stands
            for, by rank.
        reference_replicas: Copies in the reference.
        candidate_replicas: Copies in the candidate.
    """

    plan: TensorPlan
    stats: PairStats
    max_abs_diff_at: tuple[int, ...] | None
    rank_stats: dict[int, PairStats]
    reference_replicas: tuple[ReplicaResult, ...]
    candidate_replicas: tuple[ReplicaResult, ...]


Progress = Callable[[int, int], None]
"""Called with the number of elements done and the total, after each pair."""


def run_plan(
    plan: ComparePlan,
    reference: Trace,
    candidate: Trace,
    backend: Backend,
    *,
    progress: Progress | None = None,
) -> list[TensorResult]:
    """Computes the statistics of every planned tensor, in the plan's order.

    Memory holds one read-ahead of the backend; arrays are memory maps.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    jobs = [
        (pair, reference, candidate) for tensor in plan.tensors for pair in tensor.pairs
    ]
    jobs += [
        (pair, trace, trace)
        for tensor in plan.tensors
        for trace, cover in (
            (reference, tensor.reference_cover),
            (candidate, tensor.candidate_cover),
        )
        for pair in cover.replicas
    ]
    stats = _compare(jobs, backend, progress)
    pair_stats = [[next(stats) for _ in tensor.pairs] for tensor in plan.tensors]
    results = []
    for tensor, of_pairs in zip(plan.tensors, pair_stats, strict=True):
        total, at = _merge(tensor.pairs, of_pairs)
        results.append(
            TensorResult(
                plan=tensor,
                stats=total,
                max_abs_diff_at=at,
                rank_stats=_by_rank(tensor.pairs, of_pairs),
                reference_replicas=_replicas(tensor.reference_cover.replicas, stats),
                candidate_replicas=_replicas(tensor.candidate_cover.replicas, stats),
            )
        )
    return results


def run_replicas(
    covers: Sequence[Cover],
    trace: Trace,
    backend: Backend,
    *,
    progress: Progress | None = None,
) -> list[tuple[ReplicaResult, ...]]:
    """Compares the copies of several tensors within one trace, cover by cover."""
    jobs = [(pair, trace, trace) for covered in covers for pair in covered.replicas]
    stats = _compare(jobs, backend, progress)
    return [_replicas(covered.replicas, stats) for covered in covers]


def _compare(
    jobs: list[tuple[PairPlan, Trace, Trace]],
    backend: Backend,
    progress: Progress | None,
) -> Iterator[PairStats]:
    arrays = (
        ArrayPair(
            reference=_read(pair.reference, pair.region, reference),
            candidate=_read(pair.candidate, pair.region, candidate),
            factor=pair.factor,
        )
        for pair, reference, candidate in jobs
    )
    total = sum(pair.region.size for pair, _, _ in jobs)
    done = 0
    for stats, (pair, _, _) in zip(backend.compare(arrays), jobs, strict=True):
        done += pair.region.size
        if progress is not None:
            progress(done, total)
        yield stats


def _read(operand: Operand, region: Region, trace: Trace) -> np.ndarray:
    views = [
        block_view(trace.load(term.shard), term.shard.layout, term.block, region)
        for term in operand.terms
    ]
    if len(views) == 1:
        return views[0]
    # In the widest dtype, so that the sum adds no rounding that a verdict could see.
    wide = np.float64
    if all(view.dtype.kind in "iub" for view in views):
        wide = np.uint64 if views[0].dtype.kind == "u" else np.int64
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinities are counted
        return np.add.reduce([view.astype(wide) for view in views])


def _merge(
    pairs: Iterable[PairPlan], stats: Iterable[PairStats]
) -> tuple[PairStats, tuple[int, ...] | None]:
    total, at = PairStats(), None
    for pair, part in zip(pairs, stats, strict=True):
        if part.max_abs_diff > total.max_abs_diff:
            assert part.max_abs_diff_at is not None
            index = np.unravel_index(part.max_abs_diff_at, pair.region.extent)
            at = tuple(
                int(start + offset)
                for start, offset in zip(pair.region.start, index, strict=True)
            )
        total = total.merge(part)
    return total, at


def _by_rank(
    pairs: Iterable[PairPlan], stats: Iterable[PairStats]
) -> dict[int, PairStats]:
    by_rank: dict[int, PairStats] = {}
    for pair, part in zip(pairs, stats, strict=True):
        rank = pair.candidate.rank
        by_rank[rank] = by_rank[rank].merge(part) if rank in by_rank else part
    return by_rank


def _replicas(
    pairs: Iterable[PairPlan], stats: Iterator[PairStats]
) -> tuple[ReplicaResult, ...]:
    """One result per pair of ranks; the blocks of a shard are merged."""
    merged: dict[tuple[int, int], PairStats] = {}
    for pair in pairs:
        ranks = (pair.candidate.rank, pair.reference.rank)
        merged[ranks] = merged.get(ranks, PairStats()).merge(next(stats))
    return tuple(
        ReplicaResult(rank=rank, against=against, stats=part)
        for (rank, against), part in merged.items()
    )
