"""What the candidate recorded of a module, under the calls of the reference."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ttrace.compare.calls.call_counts import Place, place_of
from ttrace.compare.calls.call_matching import CallsAt, Named, dim_and_factor
from ttrace.compare.calls.call_pairing import CallPairing, Segment
from ttrace.compare.calls.call_sketches import Calls
from ttrace.compare.shown_trace import ShardKey, shard_key
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS
from ttrace.ir.layout import Block, Region
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord, TensorRecord, TraceInfo

NO_ROWS = "no dim of it counts the rows of a call"
OTHER_ROWS = "the candidate has it with the rows of other calls"
REPEATED = "other calls are given the same, and nothing tells which of them this one is"


class ShownCalls:
    """The candidate's tensors of some places, as calls of the reference.

    Attributes:
        tensors: By id of the reference.
        set_aside: Those of them that are not compared, with the reason.
    """

    def __init__(self):
        self.tensors: dict[TensorId, TensorRecord] = {}
        self.set_aside: dict[TensorId, str] = {}

    def add(self, at: CallsAt, pairing: CallPairing) -> None:
        """Shows what was recorded at a place."""
        pairs: dict[int, list[tuple[Segment, Segment]]] = {}
        first: dict[int, int] = {}
        for ours, theirs in pairing.pairs:
            pairs.setdefault(ours.call, []).append((ours, theirs))
            first.setdefault(theirs.call, ours.call)
        for name, calls in at.candidate.items():
            reference = _counterpart(name, at.reference)
            found = None
            if reference and not pairing.are_whole:
                found = dim_and_factor(reference, calls, pairing)
            if pairing.are_whole:
                shown = _whole(name, calls, first, pairing)
            elif found is not None:
                shown = dict(_by_rows(name, calls, pairing, pairs, *found))
                unpaired = (id_ for id_ in shown if id_.call not in reference)
                self.set_aside |= dict.fromkeys(unpaired, OTHER_ROWS)
            else:
                shown = _under_first(name, calls, first, pairing)
                if reference:
                    ids = {replace(name, call=call) for call in reference}
                    self.set_aside |= dict.fromkeys(ids | set(shown), NO_ROWS)
            self.tensors |= shown
            if name.kind in GRADIENTS and pairing.repeated:
                repeated = (id_ for id_ in shown if id_.call in pairing.repeated)
                self.set_aside |= dict.fromkeys(repeated, REPEATED)


def _whole(
    name: TensorId, calls: Calls, first: Mapping[int, int], pairing: CallPairing
) -> dict[TensorId, TensorRecord]:
    unused = itertools.count(max((*pairing.reference, *pairing.candidate)) + 1)
    numbers = {
        call: first[call] if call in first else next(unused)
        for call in sorted(pairing.candidate)
    }
    ids = {call: replace(name, call=numbers[call]) for call in calls}
    return {id_: replace(calls[call], id=id_) for call, id_ in ids.items()}


def _under_first(
    name: TensorId, calls: Calls, first: Mapping[int, int], pairing: CallPairing
) -> dict[TensorId, TensorRecord]:
    """What sums over rows, or is in the candidate only."""
    unused = itertools.count(max(pairing.reference) + 1)
    shown: dict[TensorId, TensorRecord] = {}
    for call, record in calls.items():
        id_ = replace(name, call=first.get(call, 0))
        if id_ in shown:
            id_ = replace(name, call=next(unused))
        shown[id_] = replace(record, id=id_)
    return shown


def _by_rows(
    name: TensorId,
    calls: Calls,
    pairing: CallPairing,
    pairs: Mapping[int, list[tuple[Segment, Segment]]],
    dim: int,
    factor: int,
) -> Iterator[tuple[TensorId, TensorRecord]]:
    for call in sorted(pairing.reference):
        length = factor * pairing.reference[call]
        shards = tuple(_shards(pairs.get(call, []), calls, dim, factor, length))
        if shards:
            id_ = replace(name, call=call)
            yield id_, TensorRecord(id=id_, shards=shards)


def _counterpart(name: TensorId, reference: Named) -> Calls:
    """What it is compared with: a recomputation, else with the first forward."""
    found = reference.get(name)
    if found is None and name.pass_ is Pass.RECOMPUTE:
        found = reference.get(replace(name, pass_=Pass.FORWARD))
    return found or {}


def _shards(
    pairs: list[tuple[Segment, Segment]],
    candidate: Calls,
    dim: int,
    factor: int,
    length: int,
) -> Iterator[ShardRecord]:
    """The candidate's shards with rows of a call of the reference."""
    wanted: dict[int, list[tuple[Segment, Segment]]] = {}
    for ours, theirs in pairs:
        if theirs.call in candidate:
            of_call = wanted.setdefault(theirs.call, [])
            of_call.append((ours.times(factor), theirs.times(factor)))
    # A recorded shard may be part of several calls that are shown.
    found: dict[ShardKey, ShardRecord] = {}
    for other, segments in wanted.items():
        record = candidate[other]
        shape = list(record.global_shape)
        shape[dim] = length
        for shard in record.shards:
            known = found.get(shard_key(shard))
            blocks = () if known is None else known.layout.blocks
            blocks += tuple(
                part
                for block in shard.layout.blocks
                for ours, theirs in segments
                if (part := _part(block, ours, theirs, dim)) is not None
            )
            if blocks:
                layout = replace(shard.layout, global_shape=tuple(shape), blocks=blocks)
                found[shard_key(shard)] = replace(shard, layout=layout)
    yield from found.values()


def _part(block: Block, ours: Segment, theirs: Segment, dim: int) -> Block | None:
    """The rows of a segment that a block holds, where the reference has them."""
    low = max(block.region.start[dim], theirs.start)
    high = min(block.region.stop[dim], theirs.start + theirs.length)
    if low >= high:
        return None
    start, extent = list(block.region.start), list(block.region.extent)
    local_start = list(block.local_start)
    local_start[dim] += low - start[dim]
    start[dim], extent[dim] = ours.start + low - theirs.start, high - low
    return Block(
        region=Region(start=tuple(start), extent=tuple(extent)),
        local_start=tuple(local_start),
    )


def renumbered_skips(
    skipped: Mapping[TensorId, SkippedRecord], found: Mapping[Place, CallPairing]
) -> dict[TensorId, SkippedRecord]:
    """What the candidate skipped, under the calls of the reference."""
    renumbered: dict[TensorId, SkippedRecord] = {}
    for id_, record in skipped.items():
        pairing = found.get(place_of(id_))
        if pairing is not None and id_.kind in ACTIVATIONS and id_.slot is not None:
            calls = {theirs.call: ours.call for ours, theirs in pairing.pairs}
            id_ = replace(id_, call=calls.get(id_.call, id_.call))
        renumbered[id_] = replace(record, id=id_)
    return renumbered


def calls_at(info: TraceInfo, places: Mapping[Place, object]) -> dict[Place, Named]:
    """What a run recorded at places, by name without its call, and by call."""
    found: dict[Place, dict[TensorId, dict[int, TensorRecord]]] = {
        place: {} for place in places
    }
    for id_, record in info.tensors.items():
        if id_.kind in ACTIVATIONS and (place := place_of(id_)) in found:
            calls = found[place].setdefault(replace(id_, call=0), {})
            calls[id_.call] = record
    return {place: dict(names) for place, names in found.items()}
