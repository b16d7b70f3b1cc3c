"""Reductions of what had been reduced over the same ranks before; no judgement.

An all-reduce leaves one value on all ranks of its group. Where that very value, on all
of them and to the bit, is what a later sum over these ranks is given, the later one
multiplies it by their number.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ttrace.compare.collectives.collective_calls import CollectiveCall, collective_calls
from ttrace.ir.trace import ShardRecord
from ttrace.ir.trace_source import TraceSource

_LEAST_ELEMENTS = 8
"""Counts and losses are too few numbers to be told from others of the same value."""

_SUMS_AGAIN = frozenset({"all_reduce", "reduce", "reduce_scatter_tensor"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedReduction:
    """A sum over ranks of what was the same on all of them after a reduction.

    Attributes:
        first: The reduction that made it the same.
        again: The sum.
        position: Which of its operands.
    """

    first: CollectiveCall
    again: CollectiveCall
    position: int


def repeated_reductions(trace: TraceSource) -> tuple[RepeatedReduction, ...]:
    """All of a run, in order of capture; within one step each.

    Cost: each operand of a sum and each result of an all-reduce is read once.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    by_step: dict[int, list[CollectiveCall]] = defaultdict(list)
    for call in collective_calls(trace.info):
        part = call.part
        if len(call.group.ranks) > 1 and part.reduction and _is_whole(call):
            by_step[call.share.first.id.step].append(call)
    return tuple(
        found for calls in by_step.values() for found in _repeated(calls, trace)
    )


def _is_whole(call: CollectiveCall) -> bool:
    return all(rank in call.shares for rank in call.group.ranks)


def _repeated(
    calls: Iterable[CollectiveCall], trace: TraceSource
) -> Iterable[RepeatedReduction]:
    # What lies on a rank after reductions, with the time from which it does.
    after: dict[tuple[int, bytes], list[tuple[int, CollectiveCall]]] = defaultdict(list)
    for call in calls:
        if call.part.name == "all_reduce":
            for rank, share in call.shares.items():
                for shard in share.results.values():
                    content = _content(shard, trace)
                    if content is not None:
                        after[rank, content].append((shard.sequence, call))
    for call in calls:
        part = call.part
        if part.name not in _SUMS_AGAIN or part.reduction != "sum":
            continue
        for position in call.share.operands:
            first = _made_by(call, position, after, trace)
            if first is not None:
                yield RepeatedReduction(first=first, again=call, position=position)
                break


def _made_by(
    call: CollectiveCall,
    position: int,
    after: dict[tuple[int, bytes], list[tuple[int, CollectiveCall]]],
    trace: TraceSource,
) -> CollectiveCall | None:
    """The last all-reduce over these ranks that gave all of them what this is given."""
    found: dict[int, CollectiveCall] | None = None
    for rank, share in call.shares.items():
        shard = share.operands.get(position)
        content = None if shard is None else _content(shard, trace)
        if shard is None or content is None:
            return None
        before = {
            id(other): other
            for sequence, other in after.get((rank, content), ())
            if sequence < shard.sequence
            and other is not call
            and (found is None or id(other) in found)
            and set(other.group.ranks) >= set(call.group.ranks)
        }
        if not before:
            return None
        found = before
    return list(found.values())[-1] if found else None


def _content(shard: ShardRecord, trace: TraceSource) -> bytes | None:
    """Stands for the elements; None where they are few, or all the same."""
    array = trace.load(shard)
    if array.size < _LEAST_ELEMENTS:
        return None
    flat = np.ascontiguousarray(array).reshape(-1)
    if not np.any(flat != flat[0]):
        return None
    return hashlib.blake2b(flat.tobytes(), digest_size=16).digest()
