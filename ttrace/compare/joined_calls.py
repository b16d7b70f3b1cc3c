"""Presents the candidate's calls of a module as the reference makes them.

A critic that is given real and generated samples one by one, or joined, is called
another number of times on the same rows. Where calls of the one run are calls of the
other, one behind the other, the rows of their inputs tell which is which, and what was
recorded of them is cut or joined accordingly. Where they do not tell, nothing is done.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.call_counts import (
    CallCount,
    Place,
    calls_text,
    differing_calls,
    place_of,
)
from ttrace.compare.shown_trace import ShownTrace
from ttrace.compare.step_regrouping import blocks_of_rows
from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

_MOST_UNLIKE = 1e-3
"""Relative error of rows that are taken for the same ones."""

_MAX_ELEMENTS = 1 << 24

_MAX_NAMED = 4

Calls = Mapping[int, TensorRecord]
"""What was recorded of one argument or result, by number of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedCalls:
    """The candidate with the calls that the reference makes.

    Attributes:
        candidate: What is compared.
        set_aside: Why a tensor of such a call is not.
        note: A sentence for the headline; empty where nothing was joined or cut.
    """

    candidate: TraceSource
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """Rows that follow each other in a call of either run.

    Attributes:
        call: The call.
        start: The first row there.
        length: Their number.
    """

    call: int
    start: int
    length: int

    def times(self, factor: int) -> "_Segment":
        return _Segment(
            call=self.call, start=factor * self.start, length=factor * self.length
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairing:
    """Which rows of the calls of a module are which.

    Attributes:
        pairs: Segments of the reference, each with the same rows of the candidate.
        reference: Number of rows by call.
        candidate: Likewise.
    """

    pairs: tuple[tuple[_Segment, _Segment], ...]
    reference: Mapping[int, int]
    candidate: Mapping[int, int]


def join_calls(reference: TraceSource, candidate: TraceSource) -> JoinedCalls:
    """Matches calls by the rows that they are given, where one run makes more of them.

    Reads the inputs of the modules that are not called as often in both runs.

    Args:
        reference: The trusted run.
        candidate: The run under test, in the micro-batches of the reference.

    Raises:
        CorruptTraceError: The bytes of an input are not those that were written.
    """
    counts = differing_calls(reference.info, candidate.info)
    places = [p for p in counts if (p[0], p[1], ROOT_MODULE) not in counts]
    if not places:
        return JoinedCalls(candidate=candidate)
    of_reference = _by_place(reference.info, places)
    of_candidate = _by_place(candidate.info, places)
    unknown = {
        place_of(id_)
        for info in (reference.info, candidate.info)
        for id_ in info.skipped
        if id_.kind in ACTIVATIONS
    }
    pairings: dict[Place, _Pairing] = {}
    tensors = dict(candidate.info.tensors)
    set_aside: dict[TensorId, str] = {}
    for place in sorted(places, key=lambda place: place[2].count(".")):
        if place in unknown:
            continue
        names = of_reference[place], of_candidate[place]
        around = pairings.get((place[0], place[1], place[2].rpartition(".")[0]))
        pairing = _pairing(*names, around, reference, candidate)
        if pairing is None:
            continue
        pairings[place] = pairing
        for name, calls in names[1].items():
            for record in calls.values():
                del tensors[record.id]
            shown, aside = _shown(name, names[0].get(name), calls, pairing)
            tensors |= shown
            said = calls_text([counts[place]])
            set_aside |= {id_: f"{place[2]} is {said}; {why}" for id_, why in aside}
    if not pairings:
        return JoinedCalls(candidate=candidate)
    return JoinedCalls(
        candidate=ShownTrace(
            candidate,
            TraceInfo(
                ranks=candidate.info.ranks,
                tensors=tensors,
                skipped=candidate.info.skipped,
            ),
        ),
        set_aside=set_aside,
        note=_note({place: counts[place] for place in pairings}),
    )


def _note(counts: Mapping[Place, CallCount]) -> str:
    modules = dict.fromkeys(module for _, _, module in counts)
    outermost = [
        module
        for module in modules
        if not any(module.startswith(f"{other}.") for other in modules)
    ]
    more = len(outermost) - _MAX_NAMED
    names = ", ".join(outermost[:_MAX_NAMED]) + (
        f" and {more} more" if more > 0 else ""
    )
    of_them = [count for place, count in counts.items() if place[2] in outermost]
    are, their = ("is", "its") if len(outermost) == 1 else ("are", "their")
    return (
        f"{names} {are} {calls_text(of_them)}: {their} calls were matched by the rows "
        "that they are given."
    )


def _by_place(
    info: TraceInfo, places: Sequence[Place]
) -> dict[Place, dict[TensorId, Calls]]:
    """What was recorded at places, by name without its call, and by call."""
    found: dict[Place, dict[TensorId, dict[int, TensorRecord]]] = {
        place: {} for place in places
    }
    for id_, record in info.tensors.items():
        if id_.kind in ACTIVATIONS and (place := place_of(id_)) in found:
            calls = found[place].setdefault(replace(id_, call=0), {})
            calls[id_.call] = record
    return {place: dict(names) for place, names in found.items()}


def _pairing(
    reference: Mapping[TensorId, Calls],
    candidate: Mapping[TensorId, Calls],
    around: _Pairing | None,
    trace: TraceSource,
    other: TraceSource,
) -> _Pairing | None:
    """Of a module within another one as of that, else by what it is given."""
    for name, calls in reference.items():
        if name.kind is not Kind.INPUT or name not in candidate:
            continue
        if around is not None:
            factor = _factor(calls, candidate[name], around)
            if factor is not None:
                return around
        found = _by_content(calls, candidate[name], trace, other)
        if found is not None:
            return found
    return None


def _by_content(
    reference: Calls, candidate: Calls, trace: TraceSource, other: TraceSource
) -> _Pairing | None:
    """The pairing by which the rows of an input are the same ones; None if none is."""
    shapes = [
        record.global_shape for record in (*reference.values(), *candidate.values())
    ]
    dim = _row_dim(shapes)
    if dim is None:
        return None
    ours = {call: record.global_shape[dim] for call, record in candidate.items()}
    theirs = {call: record.global_shape[dim] for call, record in reference.items()}
    segments = _segments(theirs, ours)
    rows = _rows(reference, dim, trace), _rows(candidate, dim, other)
    if segments is None or rows[0] is None or rows[1] is None:
        return None
    left = list(segments[1])
    found: list[_Segment] = []
    for segment in segments[0]:
        values = _cut(rows[0], segment)
        for their in left:
            if their.length == segment.length and _is_like(
                values, _cut(rows[1], their)
            ):
                found.append(their)
                left.remove(their)
                break
        else:
            return None
    return _Pairing(
        pairs=tuple(zip(segments[0], found, strict=True)),
        reference=theirs,
        candidate=ours,
    )


def _row_dim(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """The only dim whose length is not the same in all calls."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    dims = [
        d
        for d, lengths in enumerate(zip(*shapes, strict=True))
        if len(set(lengths)) > 1
    ]
    return dims[0] if len(dims) == 1 else None


def _segments(
    reference: Mapping[int, int], candidate: Mapping[int, int]
) -> tuple[list[_Segment], list[_Segment]] | None:
    """Both runs' rows cut alike, where calls of one are several of the other."""
    ends = [
        set(itertools.accumulate(lengths[call] for call in sorted(lengths)))
        for lengths in (reference, candidate)
    ]
    if not (ends[0] <= ends[1] or ends[1] <= ends[0]) or max(ends[0]) != max(ends[1]):
        return None
    every = sorted(ends[0] | ends[1])
    return _cut_at(reference, every), _cut_at(candidate, every)


def _cut_at(lengths: Mapping[int, int], ends: Sequence[int]) -> list[_Segment]:
    found, first = [], 0
    for call in sorted(lengths):
        start = first
        for end in ends:
            if start < end <= first + lengths[call]:
                found.append(
                    _Segment(call=call, start=start - first, length=end - start)
                )
                start = end
        first += lengths[call]
    return found


def _rows(calls: Calls, dim: int, trace: TraceSource) -> dict[int, np.ndarray] | None:
    """The values of each call, its rows in front; None where they are not read."""
    found = {}
    for call, record in calls.items():
        values = assembled(record, trace)
        if values is None or values.size > _MAX_ELEMENTS:
            return None
        found[call] = np.moveaxis(values.astype(np.float64), dim, 0)
    return found


def _cut(rows: Mapping[int, np.ndarray], segment: _Segment) -> np.ndarray:
    return rows[segment.call][segment.start : segment.start + segment.length]


def _is_like(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(np.linalg.norm(ours - theirs) <= _MOST_UNLIKE * np.linalg.norm(ours))


def _factor(reference: Calls, candidate: Calls, pairing: _Pairing) -> int | None:
    """Rows of a tensor for each row of a pairing, alike in all calls; None if not."""
    found = _dim_and_factor(reference, candidate, pairing)
    return None if found is None else found[1]


def _dim_and_factor(
    reference: Calls, candidate: Calls, pairing: _Pairing
) -> tuple[int, int] | None:
    """The dim of a tensor that counts rows, and how many of them for each row."""
    described = [
        (record.global_shape, rows[call])
        for calls, rows in (
            (reference, pairing.reference),
            (candidate, pairing.candidate),
        )
        for call, record in calls.items()
        if call in rows
    ]
    shapes = [shape for shape, _ in described]
    if len(described) != len(reference) + len(candidate) or (
        len({len(shape) for shape in shapes}) != 1
    ):
        return None
    for dim in range(len(shapes[0])):
        rests = {shape[:dim] + shape[dim + 1 :] for shape in shapes}
        factors = {divmod(shape[dim], rows) for shape, rows in described}
        if len(rests) == 1 and len(factors) == 1 and (pair := factors.pop())[0]:
            if not pair[1]:
                return dim, pair[0]
    return None


def _shown(
    name: TensorId, reference: Calls | None, candidate: Calls, pairing: _Pairing
) -> tuple[dict[TensorId, TensorRecord], list[tuple[TensorId, str]]]:
    """What was recorded of a name, by the calls of the reference.

    Returns:
        The records, and those of them that are not compared, with the reason.
    """
    found = _dim_and_factor(reference or {}, candidate, pairing)
    shown: dict[TensorId, TensorRecord] = {}
    aside: list[tuple[TensorId, str]] = []
    if found is None or not reference:
        # It sums over rows, or only the candidate has it: under a call of its rows.
        unused = itertools.count(max(pairing.reference) + 1)
        for call, record in candidate.items():
            first = next(r.call for r, c in pairing.pairs if c.call == call)
            id_ = replace(name, call=first)
            if id_ in shown:
                id_ = replace(name, call=next(unused))
            shown[id_] = replace(record, id=id_)
        if reference:
            ids = {*shown, *(record.id for record in reference.values())}
            aside = [(id_, "no dim of it counts the rows of a call") for id_ in ids]
        return shown, aside
    dim, factor = found
    for call in sorted(pairing.reference):
        shards = tuple(_shards(call, candidate, pairing, dim, factor))
        id_ = replace(name, call=call)
        if shards:
            shown[id_] = TensorRecord(id=id_, shards=shards)
            if call not in reference:
                aside.append((id_, "the candidate has it with the rows of other calls"))
    return shown, aside


def _shards(
    call: int, candidate: Calls, pairing: _Pairing, dim: int, factor: int
) -> Iterator[ShardRecord]:
    """The candidate's shards with rows of a call of the reference."""
    wanted: dict[int, dict[int, int]] = {}
    for ours, theirs in pairing.pairs:
        if ours.call != call or theirs.call not in candidate:
            continue
        ours, theirs = ours.times(factor), theirs.times(factor)
        rows = wanted.setdefault(theirs.call, {})
        for row in range(ours.length):
            rows[theirs.start + row] = ours.start + row
    for other, rows in wanted.items():
        record = candidate[other]
        shape = list(record.global_shape)
        shape[dim] = factor * pairing.reference[call]
        for shard in record.shards:
            blocks = [
                block
                for old in shard.layout.blocks
                for block in blocks_of_rows(old, rows, dim)
            ]
            if blocks:
                layout = replace(
                    shard.layout, global_shape=tuple(shape), blocks=tuple(blocks)
                )
                yield replace(shard, layout=layout)
