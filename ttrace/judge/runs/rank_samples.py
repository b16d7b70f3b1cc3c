"""Ranks that were given the samples of others, or not those that they share."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from ttrace.compare.samples.parted_samples import RankPair, parted_ranks
from ttrace.compare.samples.samples import is_model_input
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.values import MAX_ELEMENTS
from ttrace.judge.verdicts.replica_axes import differing_axes
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSamples:
    """Ranks of a run that have the samples of others, in micro-batches of their own.

    Attributes:
        step: In which.
        ranks: The lowest rank that has the same, by rank; not empty.
        microbatches: Of these ranks, which the reference does not have: which of the
            other ranks' holds the same. Empty if not all that it lacks are theirs.
        axes: Along which axes of the mesh they lie, sorted; empty if that is unknown.
        ids: What the model was given in these micro-batches.
    """

    step: int
    ranks: Mapping[int, int]
    microbatches: Mapping[int, int] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    ids: tuple[TensorId, ...] = ()


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
        if id_.step == first.id.step and is_model_input(id_)
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

    Or of which the candidate has micro-batches more than the reference. None where it
    is not an input that differs first of what the runs were given.

    Args:
        verdicts: On all tensors.
        candidate: The run under test, with its own micro-batches.
    """
    first = next((v for v in verdicts if v.setup and v.status is Status.FAILED), None)
    if first is not None:
        if first.id.kind is not Kind.INPUT:
            return None
        ranks = ranks_with_samples_of_others(candidate, first.id.step)
        if not ranks:
            return None
        return SharedSamples(
            step=first.id.step,
            ranks=ranks,
            axes=_axes(ranks, first.id, candidate),
            ids=(first.id,),
        )
    further = [
        verdict.id
        for verdict in verdicts
        if verdict.status is Status.UNMATCHED
        and verdict.present is Side.CANDIDATE
        and is_model_input(verdict.id)
    ]
    if not further:
        return None
    step = further[0].step
    numbers = {id_.microbatch for id_ in further if id_.step == step}
    return repeated_microbatches(candidate, step, numbers)


def repeated_microbatches(
    trace: TraceSource, step: int, numbers: Set[int | None]
) -> SharedSamples | None:
    """Ranks for whose micro-batches alone a run has more of them than another one.

    Args:
        trace: The run, with its own micro-batches.
        step: In which.
        numbers: The micro-batches of the step that only this run has.

    Returns:
        None where some of these hold what no other rank has.
    """
    ranks = ranks_with_samples_of_others(trace, step)
    given: dict[int, dict[int, TensorId]] = {}
    for id_, record in trace.info.tensors.items():
        if id_.step == step and is_model_input(id_) and id_.microbatch is not None:
            for shard in record.shards:
                given.setdefault(shard.rank, {}).setdefault(id_.microbatch, id_)
    again = {
        number: other
        for rank, lower in ranks.items()
        for number, other in zip(
            sorted(given[rank]), sorted(given[lower]), strict=False
        )
    }
    if not ranks or not numbers or set(again) != numbers:
        return None
    ids = [id_ for of_rank in given.values() for id_ in of_rank.values()]
    return SharedSamples(
        step=step,
        ranks=ranks,
        microbatches=again,
        axes=_axes(ranks, ids[0], trace),
        ids=tuple(dict.fromkeys(id_ for id_ in ids if id_.microbatch in again)),
    )


def _axes(
    ranks: Mapping[int, int], given: TensorId, trace: TraceSource
) -> tuple[str, ...]:
    """Along which axes of the mesh of an input ranks lie; none where it is unknown."""
    record = trace.info.tensors.get(given)
    if record is None:
        return ()
    pairs = [RankPair(rank=one, against=other) for one, other in ranks.items()]
    mesh = record.shards[0].layout.mesh
    return tuple(sorted(differing_axes(pairs, mesh, trace.info)))


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
        if id_.step == step and is_model_input(id_) and id_.microbatch is not None:
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
