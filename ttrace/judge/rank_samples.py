"""Ranks that were given the samples of others, or not those that they share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttrace.compare.parted_samples import RankPair, parted_ranks
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.ir.trace import ShardRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.replica_axes import differing_axes
from ttrace.judge.values import MAX_ELEMENTS
from ttrace.judge.verdict import Status, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSamples:
    """Ranks of a run that have the samples of others, in micro-batches of their own.

    Attributes:
        step: In which.
        ranks: The lowest rank that has the same, by rank; not empty.
    """

    step: int
    ranks: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartedSamples:
    """Ranks that share a micro-batch, and were given other samples in it.

    Attributes:
        id: What the model was given, in the first such micro-batch.
        pairs: These ranks, each with one that it must have the samples of; not empty.
        axes: Along which axes of the mesh they lie, sorted; empty if that is unknown.
    """

    id: TensorId
    pairs: tuple[RankPair, ...]
    axes: tuple[str, ...]


def find_parted_samples(
    verdicts: Sequence[TensorVerdict], candidate: TraceSource
) -> PartedSamples | None:
    """Looks for them in the first step whose inputs of the model differ.

    Args:
        verdicts: On all tensors.
        candidate: The run under test, with its own micro-batches.
    """
    first = next((v for v in verdicts if v.setup and v.status is Status.FAILED), None)
    if first is None or first.id.kind is not Kind.INPUT:
        return None
    pairs: list[RankPair] = []
    found: TensorId | None = None
    axes: set[str] = set()
    given = [
        id_
        for id_ in candidate.info.tensors
        if id_.step == first.id.step and _is_given(id_)
    ]
    for id_ in sorted(given, key=lambda one: one.microbatch or 0):
        record = candidate.info.tensors[id_]
        of_input = parted_ranks([record], candidate)
        if of_input:
            found = found or id_
            pairs += [pair for pair in of_input if pair not in pairs]
            mesh = record.shards[0].layout.mesh
            axes |= differing_axes(of_input, mesh, candidate.info)
    if found is None:
        return None
    return PartedSamples(id=found, pairs=tuple(pairs), axes=tuple(sorted(axes)))


def find_shared_samples(
    verdicts: Sequence[TensorVerdict], candidate: TraceSource
) -> SharedSamples | None:
    """Looks for them in the first step whose inputs of the model differ.

    None where it is not an input that differs first of what the runs were given.

    Args:
        verdicts: On all tensors.
        candidate: The run under test, with its own micro-batches.
    """
    first = next((v for v in verdicts if v.setup and v.status is Status.FAILED), None)
    if first is None or first.id.kind is not Kind.INPUT:
        return None
    ranks = ranks_with_samples_of_others(candidate, first.id.step)
    return SharedSamples(step=first.id.step, ranks=ranks) if ranks else None


def ranks_with_samples_of_others(trace: TraceSource, step: int) -> Mapping[int, int]:
    """Ranks whose micro-batches of a step hold what those of a lower rank hold.

    Such of micro-batches of their own: ranks that share theirs are to have the same.

    Args:
        trace: The run.
        step: Of which the inputs of the model are read.

    Returns:
        The lowest rank that has the same, by rank; empty where the inputs are large.
    """
    given: dict[int, list[tuple[TensorId, ShardRecord]]] = {}
    size = 0
    for id_, record in trace.info.tensors.items():
        if id_.step == step and _is_given(id_) and id_.microbatch is not None:
            for shard in record.shards:
                given.setdefault(shard.rank, []).append((id_, shard))
                size += math.prod(shard.layout.local_shape)
    if size > MAX_ELEMENTS:
        return {}
    found: dict[int, int] = {}
    first_with: dict[object, int] = {}
    for rank, inputs in sorted(given.items()):
        inputs.sort(key=lambda pair: pair[1].sequence)
        content = tuple(
            (id_.slot, id_.call, trace.load(shard).tobytes()) for id_, shard in inputs
        )
        other = first_with.setdefault(content, rank)
        own = {id_.microbatch for id_, _ in inputs}
        if own.isdisjoint(id_.microbatch for id_, _ in given[other]):
            found[rank] = other
    return found


def _is_given(id_: TensorId) -> bool:
    return (
        id_.kind is Kind.INPUT
        and id_.module == ROOT_MODULE
        and id_.pass_ is Pass.FORWARD
        and not id_.is_index
    )
