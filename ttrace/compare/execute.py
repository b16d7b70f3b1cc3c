"""Carries a plan out: reads blocks, feeds a backend, merges statistics per tensor."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.backend import ArrayPair, Backend
from ttrace.compare.operands import Operand, PairPlan
from ttrace.compare.parts import Part, part_pairs
from ttrace.compare.plan import ComparePlan, Pair, Replica, TensorPlan
from ttrace.compare.processes import Processes, compute_together
from ttrace.compare.rows import RowMatch, sum_terms
from ttrace.compare.stats import PairStats
from ttrace.ir.layout import Region
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.views import block_view


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaResult:
    """How one replica of a block differs from the one that stands for it.

    Attributes:
        rank: The rank whose replica it is.
        against: The rank it should agree with.
        stats: Of this replica (candidate) against that one (reference).
    """

    rank: int
    against: int
    stats: PairStats

    @property
    def spread(self) -> float:
        """Relative Frobenius difference of the two replicas.

        Infinite if one has a NaN, or an infinity that the other has not.
        """
        is_number = self.stats.is_equal_where_nonfinite
        return self.stats.rel_err if is_number else math.inf

    @property
    def is_exact(self) -> bool:
        """Whether the two replicas are numbers and equal, every one of them."""
        return self.stats.num_unequal == 0 and self.stats.is_equal_where_nonfinite

    def agrees_within(self, difference_norm: float) -> bool:
        """Whether the Frobenius norm of the difference is at most that."""
        return (
            self.stats.is_equal_where_nonfinite
            and self.stats.difference_norm <= difference_norm
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorResult:
    """What the comparison of one tensor gave.

    Attributes:
        plan: What was compared.
        stats: Candidate against reference over the whole tensor.
        max_abs_diff_at: Global index of the largest absolute difference, or None.
        rank_stats: The same statistics for the part that each candidate rank stands
            for, by rank.
        reference_replicas: Replicas in the reference.
        candidate_replicas: Replicas in the candidate.
        broadcast_shape: The shape that both sides were broadcast to before they were
            compared (see ``ttrace.compare.second_look``); None if they were not.
        mask_notations: How either side says what a mask keeps, where not values but
            that was compared; else None.
    """

    plan: TensorPlan
    stats: PairStats
    max_abs_diff_at: tuple[int, ...] | None
    rank_stats: dict[int, PairStats]
    reference_replicas: tuple[ReplicaResult, ...]
    candidate_replicas: tuple[ReplicaResult, ...]
    broadcast_shape: tuple[int, ...] | None = None
    mask_notations: tuple[str, str] | None = None

    @property
    def rows(self) -> RowMatch | None:
        """Which rows the two runs have, where that depends on data; else None."""
        return self.plan.rows


Progress = Callable[[int, int], None]
"""Called with the number of elements done and the total, now and then."""


def run_plan(
    plan: ComparePlan,
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> list[TensorResult]:
    """Computes the statistics of every planned tensor, in the plan's order.

    Memory holds one read-ahead of the backend; arrays are memory maps.

    Args:
        plan: A whole one: what depends on indices of rows has been planned.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
        progress: Called as the comparison proceeds, of this process's part.
        processes: Which share the work, and all return the same; None for this alone.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
        CommandError: A process ended, or hangs.
    """
    tensors = plan.tensors
    assert all(tensor.is_whole for tensor in tensors), "plan_rows comes before"
    jobs = [(pair, reference, candidate) for tensor in tensors for pair in tensor.pairs]
    jobs += [
        (pair, trace, trace)
        for tensor in tensors
        for trace, cover in (
            (reference, tensor.reference_cover),
            (candidate, tensor.candidate_cover),
        )
        for pair in cover.replicas
    ]
    meter = _Meter(progress, sum(tensor.size for tensor in tensors))
    if processes is None:
        stats = _compare(jobs, backend, meter)
    else:
        stats = compute_together(
            [pair.size for pair, _, _ in jobs],
            lambda part: list(_compare(jobs[part], backend, meter)),
            processes,
        )
    pair_stats = [[next(stats) for _ in tensor.pairs] for tensor in tensors]
    results = []
    for tensor, of_pairs in zip(tensors, pair_stats, strict=True):
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
    replicas: Iterable[Sequence[Replica]],
    trace: TraceSource,
    backend: Backend,
    *,
    progress: Progress | None = None,
) -> list[tuple[ReplicaResult, ...]]:
    """Compares replicas within one trace, tensor by tensor.

    Args:
        replicas: Those of each tensor.
        trace: Holds them.
        backend: Computes the statistics.
        progress: Called as the comparison proceeds.
    """
    replicas = list(replicas)
    jobs = [(pair, trace, trace) for pairs in replicas for pair in pairs]
    meter = _Meter(progress, sum(pair.size for pair, _, _ in jobs))
    stats = _compare(jobs, backend, meter)
    return [_replicas(pairs, stats) for pairs in replicas]


def run_parts(
    parts: Iterable[tuple[TensorPlan, Part]],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> list[PairStats]:
    """Compares parts of planned tensors; as many passes as a tensor has parts' dims.

    Args:
        parts: Each with the plan of its tensor.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.

    Returns:
        Of each part; of no elements where rows depend on data.
    """
    pairs = [part_pairs(plan, part) for plan, part in parts]
    jobs = [(pair, reference, candidate) for of_part in pairs for pair in of_part]
    stats = _compare(jobs, backend, _Meter(None, 0))
    return [_merge(of_part, [next(stats) for _ in of_part])[0] for of_part in pairs]


class _Meter:
    """Tells a ``Progress`` of pairs that are done, a thousand times at most, about."""

    def __init__(self, progress: Progress | None, total: int):
        self._progress = progress
        self._total = total
        self._done = self._next = 0

    def add(self, num_elements: int) -> None:
        self._done += num_elements
        if self._done >= self._next and self._progress is not None:
            self._progress(self._done, self._total)
            self._next = min(self._done + self._total // 1000, self._total)


def _compare(
    jobs: Sequence[tuple[Pair, TraceSource, TraceSource]],
    backend: Backend,
    meter: _Meter,
) -> Iterator[PairStats]:
    arrays = (
        read_pair(pair, reference, candidate) for pair, reference, candidate in jobs
    )
    for stats, (pair, _, _) in zip(backend.compare(arrays), jobs, strict=True):
        meter.add(pair.size)
        yield stats


def read_pair(pair: Pair, reference: TraceSource, candidate: TraceSource) -> ArrayPair:
    """The values of both sides of a pair; views, where nothing has to be gathered."""
    if not isinstance(pair, PairPlan):
        return pair.arrays(reference, candidate)
    return ArrayPair(
        reference=read_blocks(pair.reference, pair.region, reference),
        candidate=read_blocks(pair.candidate, pair.region, candidate),
        factor=pair.factor,
    )


def read_blocks(operand: Operand, region: Region, trace: TraceSource) -> np.ndarray:
    """The values of an operand in a region that it holds, partials summed."""
    return sum_terms(
        [
            block_view(trace.load(term.shard), term.shard.layout, term.block, region)
            for term in operand.terms
        ]
    )


def _merge(
    pairs: Iterable[Pair], stats: Iterable[PairStats]
) -> tuple[PairStats, tuple[int, ...] | None]:
    total, at = None, None
    for pair, part in zip(pairs, stats, strict=True):
        if part.max_abs_diff > (0.0 if total is None else total.max_abs_diff):
            assert part.max_abs_diff_at is not None
            at = pair.global_index(part.max_abs_diff_at)
        total = part if total is None else total.merge(part)
    return PairStats() if total is None else total, at


def _by_rank(pairs: Iterable[Pair], stats: Iterable[PairStats]) -> dict[int, PairStats]:
    by_rank: dict[int, PairStats] = {}
    for pair, part in zip(pairs, stats, strict=True):
        rank, _ = pair.ranks
        if rank is None:
            continue
        by_rank[rank] = by_rank[rank].merge(part) if rank in by_rank else part
    return by_rank


def _replicas(
    pairs: Iterable[Replica], stats: Iterator[PairStats]
) -> tuple[ReplicaResult, ...]:
    """One result per pair of ranks; the blocks of a shard are merged."""
    merged: dict[tuple[int, int], PairStats] = {}
    for pair in pairs:
        ranks, part = pair.ranks, next(stats)
        merged[ranks] = merged[ranks].merge(part) if ranks in merged else part
    return tuple(
        ReplicaResult(rank=rank, against=against, stats=part)
        for (rank, against), part in merged.items()
    )
