"""Carries a plan out: reads blocks, feeds a backend, merges statistics per tensor."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.backend import ArrayPair, Backend
from ttrace.compare.indexed import RowMatch, match_rows
from ttrace.compare.plan import ComparePlan, Operand, PairPlan, TensorPlan
from ttrace.compare.rows import OneSidedRows, RowPair, sum_terms
from ttrace.compare.stats import PairStats
from ttrace.ir.layout import Region
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.views import block_view


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
        rows: Which rows the two runs have, where that depends on data; else None.
    """

    plan: TensorPlan
    stats: PairStats
    max_abs_diff_at: tuple[int, ...] | None
    rank_stats: dict[int, PairStats]
    reference_replicas: tuple[ReplicaResult, ...]
    candidate_replicas: tuple[ReplicaResult, ...]
    rows: RowMatch | None = None


Progress = Callable[[int, int], None]
"""Called with the number of elements done and the total, after each pair."""

Copy = PairPlan | RowPair
"""Two operands, over a region that was planned or over rows that were found."""

Pair = Copy | OneSidedRows
"""The same, or rows that only one run has."""


def run_plan(
    plan: ComparePlan,
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    progress: Progress | None = None,
) -> list[TensorResult]:
    """Computes the statistics of every planned tensor, in the plan's order.

    Memory holds one read-ahead of the backend; arrays are memory maps.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    by_blocks = [
        _Work(
            plan=tensor,
            pairs=tensor.pairs,
            reference_replicas=tensor.reference_cover.replicas,
            candidate_replicas=tensor.candidate_cover.replicas,
        )
        for tensor in plan.tensors
        if tensor.index_dim is None
    ]
    indexed = [tensor for tensor in plan.tensors if tensor.index_dim is not None]
    num_elements = sum(work.size for work in by_blocks)
    num_elements += sum(_num_planned(tensor) for tensor in indexed)
    meter = _Meter(progress, num_elements)
    results = _run(by_blocks, reference, candidate, backend, meter)
    for tensor in indexed:  # one at a time: indices are held in memory
        matched = match_rows(tensor, reference, candidate)
        work = _Work(
            plan=tensor,
            pairs=matched.pairs,
            reference_replicas=matched.reference_replicas,
            candidate_replicas=matched.candidate_replicas,
            rows=matched.rows,
        )
        results += _run([work], reference, candidate, backend, meter)
    by_id = {result.plan.id: result for result in results}
    return [by_id[tensor.id] for tensor in plan.tensors]


def run_replicas(
    replicas: Iterable[Sequence[Copy]],
    trace: TraceSource,
    backend: Backend,
    *,
    progress: Progress | None = None,
) -> list[tuple[ReplicaResult, ...]]:
    """Compares copies within one trace, tensor by tensor.

    Args:
        replicas: The copies of each tensor.
        trace: Holds them.
        backend: Computes the statistics.
        progress: Called as the comparison proceeds.
    """
    replicas = list(replicas)
    jobs = [(pair, trace, trace) for pairs in replicas for pair in pairs]
    meter = _Meter(progress, sum(pair.size for pair, _, _ in jobs))
    stats = _compare(jobs, backend, meter)
    return [_replicas(pairs, stats) for pairs in replicas]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """The pairs of one tensor.

    Attributes:
        plan: What they come from.
        pairs: Candidate against reference.
        reference_replicas: Copies within the reference.
        candidate_replicas: Copies within the candidate.
        rows: See ``TensorResult``.
    """

    plan: TensorPlan
    pairs: Sequence[Pair]
    reference_replicas: Sequence[Copy]
    candidate_replicas: Sequence[Copy]
    rows: RowMatch | None = None

    @property
    def size(self) -> int:
        """Number of elements of all pairs."""
        pairs = (*self.pairs, *self.reference_replicas, *self.candidate_replicas)
        return sum(pair.size for pair in pairs)


class _Meter:
    """Tells a ``Progress`` of pairs that are done."""

    def __init__(self, progress: Progress | None, total: int):
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, num_elements: int) -> None:
        # How many elements an indexed tensor has is estimated before it is read.
        self._done = min(self._done + num_elements, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)


def _num_planned(tensor: TensorPlan) -> int:
    return sum(region.size for region, _ in tensor.candidate_cover.pieces)


def _run(
    works: Sequence[_Work],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    meter: _Meter,
) -> list[TensorResult]:
    jobs = [(pair, reference, candidate) for work in works for pair in work.pairs]
    jobs += [
        (pair, trace, trace)
        for work in works
        for trace, replicas in (
            (reference, work.reference_replicas),
            (candidate, work.candidate_replicas),
        )
        for pair in replicas
    ]
    stats = _compare(jobs, backend, meter)
    pair_stats = [[next(stats) for _ in work.pairs] for work in works]
    results = []
    for work, of_pairs in zip(works, pair_stats, strict=True):
        total, at = _merge(work.pairs, of_pairs)
        results.append(
            TensorResult(
                plan=work.plan,
                stats=total,
                max_abs_diff_at=at,
                rank_stats=_by_rank(work.pairs, of_pairs),
                reference_replicas=_replicas(work.reference_replicas, stats),
                candidate_replicas=_replicas(work.candidate_replicas, stats),
                rows=work.rows,
            )
        )
    return results


def _compare(
    jobs: Sequence[tuple[Pair, TraceSource, TraceSource]],
    backend: Backend,
    meter: _Meter,
) -> Iterator[PairStats]:
    arrays = (_read(pair, reference, candidate) for pair, reference, candidate in jobs)
    for stats, (pair, _, _) in zip(backend.compare(arrays), jobs, strict=True):
        meter.add(pair.size)
        yield stats


def _read(pair: Pair, reference: TraceSource, candidate: TraceSource) -> ArrayPair:
    if not isinstance(pair, PairPlan):
        return pair.arrays(reference, candidate)
    return ArrayPair(
        reference=_read_blocks(pair.reference, pair.region, reference),
        candidate=_read_blocks(pair.candidate, pair.region, candidate),
        factor=pair.factor,
    )


def _read_blocks(operand: Operand, region: Region, trace: TraceSource) -> np.ndarray:
    return sum_terms(
        [
            block_view(trace.load(term.shard), term.shard.layout, term.block, region)
            for term in operand.terms
        ]
    )


def _merge(
    pairs: Iterable[Pair], stats: Iterable[PairStats]
) -> tuple[PairStats, tuple[int, ...] | None]:
    total, at = PairStats(), None
    for pair, part in zip(pairs, stats, strict=True):
        if part.max_abs_diff > total.max_abs_diff:
            assert part.max_abs_diff_at is not None
            at = pair.global_index(part.max_abs_diff_at)
        total = total.merge(part)
    return total, at


def _by_rank(pairs: Iterable[Pair], stats: Iterable[PairStats]) -> dict[int, PairStats]:
    by_rank: dict[int, PairStats] = {}
    for pair, part in zip(pairs, stats, strict=True):
        rank, _ = pair.ranks
        if rank is None:
            continue
        by_rank[rank] = by_rank[rank].merge(part) if rank in by_rank else part
    return by_rank


def _replicas(
    pairs: Iterable[Copy], stats: Iterator[PairStats]
) -> tuple[ReplicaResult, ...]:
    """One result per pair of ranks; the blocks of a shard are merged."""
    merged: dict[tuple[int, int], PairStats] = {}
    for pair in pairs:
        merged[pair.ranks] = merged.get(pair.ranks, PairStats()).merge(next(stats))
    return tuple(
        ReplicaResult(rank=rank, against=against, stats=part)
        for (rank, against), part in merged.items()
    )
