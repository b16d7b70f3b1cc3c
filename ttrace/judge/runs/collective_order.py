"""Ranks of a group that do not run the same collectives in the same order."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ttrace.compare.collectives.collective_calls import (
    CollectiveCall,
    Group,
    RankShare,
    collective_calls,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.trace import TraceInfo

_EQUAL_SIZES = frozenset(
    {
        "all_reduce",
        "all_gather_into_tensor",
        "broadcast",
        "reduce",
        "reduce_scatter_tensor",
    }
)
"""Collectives whose operands have one size on all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFault:
    """The first collective of a group in which its ranks part.

    Attributes:
        call: As far as ranks recorded it.
        rank: One of them.
        other: A rank that runs another collective there, or none.
        is_missing: It runs none.
    """

    call: CollectiveCall
    rank: int
    other: int
    is_missing: bool


def find_order_faults(info: TraceInfo) -> tuple[OrderFault, ...]:
    """Where the ranks of each group part first; behind it nothing is told.

    That a rank runs none is only said where it recorded all that it ran.
    """
    by_group: dict[Group, dict[int, CollectiveCall]] = {}
    for call in collective_calls(info):
        by_group.setdefault(call.group, {})[call.number] = call
    whole = _whole_ranks(info)
    faults = []
    for group, calls in by_group.items():
        for number in sorted(calls):
            fault = _fault(calls[number], group, whole)
            if fault is not None:
                faults.append(fault)
                break
    return tuple(faults)


def _whole_ranks(info: TraceInfo) -> frozenset[int]:
    """Ranks that recorded some of every collective that they ran."""
    left_out = {
        skipped.rank
        for id_, skipped in info.skipped.items()
        if id_.kind is Kind.COLLECTIVE
    }
    found = set()
    for rank_info in info.ranks:
        capture = CaptureFilter.from_json(dict(rank_info.capture))
        is_whole = capture.wants_collectives_of(None) and capture.steps is None
        if is_whole and rank_info.rank not in left_out:
            found.add(rank_info.rank)
    return frozenset(found)


def _fault(
    call: CollectiveCall, group: Group, whole: Iterable[int]
) -> OrderFault | None:
    first = next(iter(call.shares))
    asked = _asked(call.shares[first])
    for rank, share in call.shares.items():
        if _asked(share) != asked:
            return OrderFault(call=call, rank=first, other=rank, is_missing=False)
    for rank in group.ranks:
        if rank in whole and rank not in call.shares:
            return OrderFault(call=call, rank=first, other=rank, is_missing=True)
    return None


def _asked(share: RankShare) -> tuple:
    """What all ranks must ask for alike."""
    part = share.part
    sizes: tuple = ()
    if part.name in _EQUAL_SIZES:
        # Only the root of a broadcast has an operand; all have the result.
        shards = share.results if part.name == "broadcast" else share.operands
        sizes = tuple(
            (shards[position].dtype, math.prod(shards[position].layout.local_shape))
            for position in sorted(shards)
        )
    return part.name, part.reduction, part.root, sizes
