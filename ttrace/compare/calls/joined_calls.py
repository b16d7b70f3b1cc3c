"""Presents the candidate's calls of a module as the reference makes them.

A critic that is given real and generated samples one by one, or joined, is called
another number of times on the same rows; two branches that share a module may be
called in either order. What calls are given tells which is which, and what was recorded
of them is cut, joined or renumbered accordingly. Where that does not tell, nothing is
done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ttrace.compare.calls.call_counts import (
    CallCount,
    Place,
    calls_text,
    differing_calls,
    num_calls,
    place_of,
)
from ttrace.compare.calls.call_matching import CallMatcher, CallsAt, Named
from ttrace.compare.calls.call_notes import matched_note
from ttrace.compare.calls.call_pairing import CallPairing
from ttrace.compare.calls.shown_calls import ShownCalls, calls_at, renumbered_skips
from ttrace.compare.shown_trace import ShownTrace
from ttrace.ir.kinds import ACTIVATIONS
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedCalls:
    """The candidate with the calls that the reference makes.

    Attributes:
        candidate: What is compared.
        set_aside: Why a tensor of such a call is not.
        note: A sentence for the headline; empty where nothing was matched.
        assumed: Where one run makes more calls, which were matched although they are
            not all given the same.
        places: Where calls were matched.
    """

    candidate: TraceSource
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)
    note: str = ""
    assumed: Mapping[Place, CallCount] = field(default_factory=dict)
    places: frozenset[Place] = frozenset()


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
    unknown = _skipped_calls(reference.info) | _skipped_calls(candidate.info)
    places = {
        place: count
        for place, count in counts.items()
        if (*place[:2], ROOT_MODULE) not in counts and place not in unknown
    }
    found = _matched(CallMatcher(reference=reference, candidate=candidate), places)
    return _presented(candidate, found, places)


def reorder_calls(
    reference: TraceSource, candidate: TraceSource, places: Iterable[Place]
) -> JoinedCalls:
    """Matches calls by what they are given, where both runs make as many.

    Args:
        reference: The trusted run.
        candidate: The run under test, with the calls of the reference.
        places: Where what calls are given differs, call by call.

    Raises:
        CorruptTraceError: The bytes of an input are not those that were written.
    """
    matcher = CallMatcher(reference=reference, candidate=candidate, are_ordered=True)
    numbers = num_calls(reference.info), num_calls(candidate.info)
    counts = {
        place: CallCount(reference=numbers[0][place], candidate=numbers[1][place])
        for place in places
        if place in numbers[0] and numbers[0][place] == numbers[1].get(place, 0) > 1
    }
    return _presented(candidate, _matched(matcher, counts), counts)


def _skipped_calls(info: TraceInfo) -> set[Place]:
    return {place_of(id_) for id_ in info.skipped if id_.kind in ACTIVATIONS}


_Found = tuple[dict[Place, CallPairing], dict[Place, CallsAt]]


def _matched(matcher: CallMatcher, places: Mapping[Place, CallCount]) -> _Found:
    if not places:
        return {}, {}
    ours = calls_at(matcher.reference.info, places)
    theirs = calls_at(matcher.candidate.info, places)
    at = {
        place: CallsAt(reference=ours[place], candidate=theirs[place])
        for place in places
        if not (_has_indexed_rows(ours[place]) or _has_indexed_rows(theirs[place]))
    }
    return matcher.match(at), at


def _has_indexed_rows(named: Named) -> bool:
    """Whether recorded tensors name rows there, which are of their own calls."""
    return any(
        shard.layout.index is not None
        for calls in named.values()
        for record in calls.values()
        for shard in record.shards
    )


def _presented(
    candidate: TraceSource, matched: _Found, counts: Mapping[Place, CallCount]
) -> JoinedCalls:
    found, at = matched
    if not found:
        return JoinedCalls(candidate=candidate)
    tensors = {
        id_: record
        for id_, record in candidate.info.tensors.items()
        if not (id_.kind in ACTIVATIONS and place_of(id_) in found)
    }
    set_aside: dict[TensorId, str] = {}
    for place, pairing in found.items():
        shown = ShownCalls()
        shown.add(at[place], pairing)
        tensors |= shown.tensors
        said = f"{place[2]} is {calls_text([counts[place]])}"
        set_aside |= {id_: f"{said}; {why}" for id_, why in shown.set_aside.items()}
    info = TraceInfo(
        ranks=candidate.info.ranks,
        tensors=tensors,
        skipped=renumbered_skips(candidate.info.skipped, found),
    )
    return JoinedCalls(
        candidate=ShownTrace(candidate, info),
        set_aside=set_aside,
        note=matched_note(found, counts),
        assumed={
            place: counts[place]
            for place, pairing in found.items()
            if pairing.is_assumed and counts[place].reference != counts[place].candidate
        },
        places=frozenset(found),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How the calls of modules differ, and how they were matched.

    Attributes:
        order: ``calls 0, 1 of {} {are} calls 1, 0 of the candidate``; empty where one
            run makes more of them.
        like: As in the pairing.
        is_assumed: Likewise.
        is_whole: They are calls of the other run.
    """

    order: str
    like: str
    is_assumed: bool
    is_whole: bool
