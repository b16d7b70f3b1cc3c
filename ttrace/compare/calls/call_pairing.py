"""Which rows of the calls of a module in one run are which in the other; pure.

Rows are known by numbers (see ``ttrace.compare.calls.row_classes``). What is tried
first is what loops and batches make of each other: calls in another order, calls joined
one behind the other, or row by row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.calls.row_classes import UNKNOWN

_LEAST_KNOWN = 0.5
"""Share of rows that are found, from which on the rest is taken in order."""

Lengths = Mapping[int, int]
"""Number of rows by call, in order of the calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Rows that follow each other in a call of either run.

    Attributes:
        call: The call.
        start: The first row there.
        length: Their number.
    """

    call: int
    start: int
    length: int

    def times(self, factor: int) -> "Segment":
        """The rows of a tensor that has so many for each of these."""
        return Segment(
            call=self.call, start=factor * self.start, length=factor * self.length
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPairing:
    """Which rows of the calls of a module are which.

    Attributes:
        pairs: Segments of the reference, each with the same rows of the candidate; in
            order of the reference.
        reference: Number of rows by call; one for each call where calls are whole.
        candidate: Likewise.
        are_whole: Calls of the one run are calls of the other.
        repeated: Calls of the reference that have a row which others have too, and
            nothing tells which of them is which.
        is_assumed: It was not, or not all of it, found by what calls are given.
        like: The module whose pairing it is, as what its own calls are given does not
            tell; else empty.
    """

    pairs: tuple[tuple[Segment, Segment], ...]
    reference: Lengths
    candidate: Lengths
    are_whole: bool = False
    repeated: frozenset[int] = field(default_factory=frozenset)
    is_assumed: bool = False
    like: str = ""

    @property
    def order(self) -> dict[int, int]:
        """Of whole calls the candidate's, by the reference's."""
        return {ours.call: theirs.call for ours, theirs in self.pairs}

    @property
    def keeps_order(self) -> bool:
        """Whether rows that a call of both runs has follow each other alike in both."""
        last: dict[tuple[int, int], int] = {}
        for ours, theirs in self.pairs:
            calls = ours.call, theirs.call
            if last.get(calls, -1) > theirs.start:
                return False
            last[calls] = theirs.start
        return True

    @property
    def is_plain(self) -> bool:
        """Whether the nth call is the nth call."""
        return all(ours == theirs for ours, theirs in self.pairs)

    def nested(self, num_calls: int) -> "CallPairing":
        """That of a module which each call of this one calls so many times."""
        if num_calls == 1:
            return self

        def of_lengths(lengths: Lengths) -> dict[int, int]:
            return {
                num_calls * call + n: rows
                for call, rows in lengths.items()
                for n in range(num_calls)
            }

        def nth(segment: Segment, n: int) -> Segment:
            return replace(segment, call=num_calls * segment.call + n)

        pairs = [
            (nth(ours, n), nth(theirs, n))
            for ours, theirs in self.pairs
            for n in range(num_calls)
        ]
        pairs.sort(key=lambda pair: (pair[0].call, pair[0].start))
        return replace(
            self,
            pairs=tuple(pairs),
            reference=of_lengths(self.reference),
            candidate=of_lengths(self.candidate),
            repeated=frozenset(
                num_calls * call + n for call in self.repeated for n in range(num_calls)
            ),
        )


def pair_calls(
    reference: Mapping[int, int], candidate: Mapping[int, int]
) -> CallPairing | None:
    """Pairs whole calls.

    Args:
        reference: By call the number of what it is given.
        candidate: Likewise; ``UNKNOWN`` for a call that is given nothing known.

    Returns:
        None unless each call of the run that makes fewer is one of the other run's.
        Calls of one number that are none of them are the same one: something else is
        given there.
    """
    if min(len(reference), len(candidate)) < 1:
        return None
    places: dict[int, list[int]] = {}
    for call in sorted(candidate):
        places.setdefault(candidate[call], []).append(call)
    places.pop(UNKNOWN, None)
    calls: dict[int, list[int]] = {}
    for call in sorted(reference):
        calls.setdefault(reference[call], []).append(call)
    pairs: list[tuple[int, int]] = []
    repeated: set[int] = set()
    for number, ours in calls.items():
        theirs = places.get(number, [])
        stay = set(ours) & set(theirs)
        moved = [call for call in ours if call not in stay]
        pairs += ((call, call) for call in stay)
        left = [call for call in theirs if call not in stay]
        pairs += zip(moved, left, strict=False)
        if len(ours) > 1 and moved and left:
            repeated.update(ours)
    rest = [
        set(of_run) - {pair[side] for pair in pairs}
        for side, of_run in enumerate((reference, candidate))
    ]
    if pairs and rest[0] == rest[1]:
        pairs += ((call, call) for call in rest[0])
    if len(pairs) < min(len(reference), len(candidate)):
        return None
    return whole_calls(dict(sorted(pairs)), reference, candidate, repeated)


def whole_calls(
    order: Mapping[int, int],
    reference: Sequence[int] | Mapping[int, object],
    candidate: Sequence[int] | Mapping[int, object],
    repeated: set[int] | frozenset[int] = frozenset(),
) -> CallPairing:
    """The pairing of calls that are calls of the other run.

    Args:
        order: The candidate's, by the reference's.
        reference: All calls of the reference.
        candidate: All calls of the candidate.
        repeated: See ``CallPairing``.
    """
    return CallPairing(
        pairs=tuple(
            (
                Segment(call=ours, start=0, length=1),
                Segment(call=theirs, start=0, length=1),
            )
            for ours, theirs in order.items()
        ),
        reference=dict.fromkeys(reference, 1),
        candidate=dict.fromkeys(candidate, 1),
        are_whole=True,
        repeated=frozenset(repeated),
    )


def pair_rows(
    reference: Mapping[int, np.ndarray],
    candidate: Mapping[int, np.ndarray],
    *,
    is_usual: bool = False,
) -> CallPairing | None:
    """Pairs rows of calls.

    Where some rows are found, and as many are left in either run, these are taken in
    order: something else is given there.

    Args:
        reference: By call the numbers of its rows, in order of the calls.
        candidate: Likewise; ``UNKNOWN`` for a row that is none of the reference's.
        is_usual: Rows must be joined or cut as they usually are, and be all the same:
            a wrong input may be a right one whose rows are mixed up.

    Returns:
        None where that does not tell which row is which.
    """
    ours, theirs = (
        np.concatenate(list(rows.values())) for rows in (reference, candidate)
    )
    if len(ours) != len(theirs) or not len(ours):
        return None
    lengths = tuple(
        {call: len(rows) for call, rows in of_run.items()}
        for of_run in (reference, candidate)
    )
    arrangements = _arrangements(*(list(of_run.values()) for of_run in lengths))
    usual = [(int((theirs[places] == ours).sum()), places) for places in arrangements]
    num_found, best = max(usual, key=lambda one: one[0])
    if num_found == len(ours):
        pairing = _of_places(best, *lengths)
        if sum(number == num_found for number, _ in usual) > 1:
            # Nothing tells how they were joined.
            return replace(pairing, repeated=frozenset(reference))
        return pairing
    if is_usual:
        return None
    found = _places_of(ours, theirs)
    if found is None and num_found < _LEAST_KNOWN * len(ours):
        return None
    if found is None:
        return replace(_of_places(best, *lengths), is_assumed=True)
    places, is_repeated = found
    pairing = _of_places(places, *lengths)
    starts = np.cumsum([0, *lengths[0].values()])
    calls = np.searchsorted(starts, np.flatnonzero(is_repeated), "right") - 1
    names = list(lengths[0])
    return replace(pairing, repeated=frozenset(names[i] for i in set(calls.tolist())))


def _arrangements(ours: Sequence[int], theirs: Sequence[int]) -> Iterator[np.ndarray]:
    """By row of the reference the candidate's, as they are usually joined or cut."""
    total = sum(ours)
    yield np.arange(total)
    few, many = (theirs, ours) if len(ours) >= len(theirs) else (ours, theirs)
    if len(many) % len(few) or len(set(few)) > 1 or len(set(many)) > 1:
        return
    num_joined = len(many) // len(few)
    one_by_one = np.arange(total).reshape(len(few), many[0], num_joined)
    in_turn = one_by_one.transpose(0, 2, 1).reshape(-1)
    if 1 < num_joined < total:
        yield in_turn if many is ours else np.argsort(in_turn)


def _places_of(
    ours: np.ndarray, theirs: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """By row of the reference the candidate's, the nth of equal ones the nth.

    Returns:
        The rows; and which of the reference's are like others, so that nothing tells
        them apart. None unless each is found once.
    """
    orders = np.argsort(ours, kind="stable"), np.argsort(theirs, kind="stable")
    if not np.array_equal(ours[orders[0]], theirs[orders[1]]):
        return None
    places = np.empty(len(ours), np.int64)
    places[orders[0]] = orders[1]
    _, numbers, counts = np.unique(ours, return_inverse=True, return_counts=True)
    return places, counts[numbers.reshape(-1)] > 1


def _of_places(
    places: np.ndarray, reference: Lengths, candidate: Lengths
) -> CallPairing:
    """Cuts rows into segments that follow each other in calls of both runs."""
    starts = [np.cumsum([0, *of_run.values()]) for of_run in (reference, candidate)]
    names = [list(of_run) for of_run in (reference, candidate)]
    rows = np.arange(len(places))
    calls = (
        np.searchsorted(starts[0], rows, "right") - 1,
        np.searchsorted(starts[1], places, "right") - 1,
    )
    breaks = np.flatnonzero(
        (np.diff(places) != 1) | (np.diff(calls[0]) != 0) | (np.diff(calls[1]) != 0)
    )
    first = [0, *(breaks + 1).tolist()]
    pairs = []
    for row, stop in zip(first, [*first[1:], len(places)], strict=True):
        sides = []
        for side, at in enumerate((row, int(places[row]))):
            call = int(calls[side][row])
            start = at - int(starts[side][call])
            sides.append(
                Segment(call=names[side][call], start=start, length=stop - row)
            )
        pairs.append(tuple(sides))
    return CallPairing(
        pairs=tuple(pairs), reference=dict(reference), candidate=dict(candidate)
    )
