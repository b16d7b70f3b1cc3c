"""The copies within one trace, compared with each other; needs no reference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ttrace.compare.align import is_rank_filtered
from ttrace.compare.backend import Backend
from ttrace.compare.execute import Copy, Progress, ReplicaResult, run_replicas
from ttrace.compare.indexed import row_replicas
from ttrace.compare.plan import Cover, cover, index_dim_of, row_cover
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import NEEDS_AUTOGRAD
from ttrace.ir.skipped_step import skipped_steps
from ttrace.ir.trace import TensorRecord
from ttrace.store.reader import Trace

_ALLOWED_EPSILONS = 16.0
"""Replicated activations come out of the same reduced values and mostly agree in every
bit; kernels that choose another order of summation per rank may move the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCheck:
    """The copies of one tensor.

    Attributes:
        record: The tensor.
        cover: How its shards cover it.
        results: Every copy against the one it should equal.
    """

    record: TensorRecord
    cover: Cover
    results: tuple[ReplicaResult, ...]

    @property
    def agrees(self) -> bool:
        """Whether every copy agrees and no pending sum lacks a partial."""
        return not (self.cover.missing_partials or self.differing)

    @property
    def differing(self) -> tuple[ReplicaResult, ...]:
        """The copies that do not agree."""
        return tuple(
            result
            for result in self.results
            if not (
                result.is_exact if self.exact else result.spread <= self.allowed_spread
            )
        )

    @property
    def allowed_spread(self) -> float:
        """Copies of activations may differ by rounding: a few storage epsilons."""
        epsilon = dtype_named(self.record.shards[0].dtype).epsilon
        return _ALLOWED_EPSILONS * (epsilon or 0.0)

    @property
    def exact(self) -> bool:
        """Whether the copies must agree in every bit."""
        return self.record.shards[0].exact_replicas

    @property
    def spread(self) -> float:
        """Largest relative difference of two copies."""
        return max((result.spread for result in self.results), default=0.0)


def check_replicas(
    trace: Trace, backend: Backend, *, progress: Progress | None = None
) -> list[ReplicaCheck]:
    """Compares the copies of every tensor that has some, in order of capture.

    Tensors whose pending sum lacks a partial are listed too, without results; but not
    where ranks were left out on purpose. Gradients of steps that the optimizer skipped
    are left out: no NaN equals another.
    """
    records = []
    covers = []
    replicas: list[Sequence[Copy]] = []
    filtered = is_rank_filtered(trace.info)
    overflown = skipped_steps(trace.info)
    for record in trace.info.tensors.values():
        if record.id.is_index:
            continue
        if record.id.kind in NEEDS_AUTOGRAD and record.id.step in overflown:
            continue
        index_dim = index_dim_of(record)
        if index_dim is None:
            covered = cover(record, trace.info)
            pairs = covered.replicas
        else:
            covered = row_cover(record, trace.info)
            pairs = row_replicas(covered, trace, index_dim)
        if filtered:
            covered = replace(covered, missing_partials=False)
        if pairs or covered.missing_partials:
            records.append(record)
            covers.append(covered)
            replicas.append(pairs)
    results = run_replicas(replicas, trace, backend, progress=progress)
    return [
        ReplicaCheck(record=record, cover=covered, results=own)
        for record, covered, own in zip(records, covers, results, strict=True)
    ]
