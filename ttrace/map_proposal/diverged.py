"""Outputs that no value tells: behind the place where two runs part, by their order.

Where the runs diverge, nothing has the same values any more. Modules with parameters
are still paired by these; values that only a scope names are not, and a map without
them would hide the very place. So what is left there is lined up in order of capture,
as far as shapes allow, for somebody to read.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.map_proposal.alignment import best_alignment
from ttrace.map_proposal.beyond_agreement import Anchor, Output, beyond_agreement
from ttrace.map_proposal.layer_numbers import Layers, Shift, likely_shifts, segments
from ttrace.map_proposal.recorded_activations import Activations

_MAX_PAIRS = 4_000_000
"""Pairs of outputs that are looked at, at most: the first ones of each side."""

_SAME = {Kind.LOSS: 2.0**6, Kind.GRAD_NORM: 2.0**8}
"""Values of runs that agree differ by fewer epsilons."""


def runs_agree(sides: Mapping[Side, Activations]) -> bool:
    """Whether both runs recorded a loss, and the same one but for rounding.

    The norm of all gradients counts where both have it: a model that was just made
    loses about as much with a mistake as without.
    """
    epsilon = float(np.finfo(np.float32).eps)
    for kind, num_epsilons in _SAME.items():
        own, other = (sides[side].scalar(kind) for side in Side)
        if own is None or other is None:
            if kind is Kind.LOSS:
                return False
        elif not abs(own - other) <= num_epsilons * epsilon * abs(own):
            return False
    return True


def pair_diverged(
    sides: Mapping[Side, Activations],
    left: Mapping[Side, Sequence[Output]],
    anchors: Sequence[Anchor],
    layers: Layers,
) -> list[tuple[Output, Output]]:
    """Pairs outputs behind the place where the runs part, in order of capture.

    Args:
        sides: The activations of both runs.
        left: Outputs that nothing has dealt with, in order of capture.
        anchors: Outputs that agree in value.
        layers: Of the modules that have been paired.
    """
    places = {side: sides[side].order() for side in Side}
    own, other = beyond_agreement(sides, left, anchors, places)
    while len(own) * len(other) > _MAX_PAIRS:
        longer = own if len(own) > len(other) else other
        del longer[len(longer) // 2 :]
    if not own or not other:
        return []
    scores = _scores(sides, own, other, anchors, layers)
    _forbid_crossing(scores, own, other, anchors, places)
    _forbid_other_turns(scores, own, other, places)
    return [(own[a], other[b]) for a, b in best_alignment(scores)]


def _scores(
    sides: Mapping[Side, Activations],
    own: Sequence[Output],
    other: Sequence[Output],
    anchors: Sequence[Anchor],
    layers: Layers,
) -> np.ndarray:
    """How well outputs fit, ``[reference, candidate]``; 0 where they cannot."""
    scores = np.zeros((len(own), len(other)))
    shapes = {
        side: [sides[side].shape(tensor_id) for _, tensor_id in outputs]
        for side, outputs in ((Side.REFERENCE, own), (Side.CANDIDATE, other))
    }
    pairs = [(anchor.reference, anchor.candidate) for anchor in anchors]
    shifts = likely_shifts([(a.module, b.module) for a, b in pairs])
    known = Counter(
        key for a, b in pairs for key in _families(a.module, b.module, shifts)
    )
    fits: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for row, (_, of_reference) in enumerate(own):
        words = _words(of_reference)
        for column, (_, of_candidate) in enumerate(other):
            key = (shapes[Side.REFERENCE][row], shapes[Side.CANDIDATE][column])
            if key not in fits:
                fits[key] = _fit(*key)
            if not fits[key] or not layers.may_be_the_same(
                of_reference.module, of_candidate.module
            ):
                continue
            score = fits[key] + 0.5 * bool(words & _words(of_candidate))
            families = _families(of_reference.module, of_candidate.module, shifts)
            if any(known[family] for family in families):
                score += 4
            scores[row, column] = score
    return scores


def _families(reference: str, candidate: str, shifts: Sequence[Shift]) -> set[object]:
    """What two modules are called but for numbers that run alike."""
    found: set[object] = set()
    for shift in shifts:
        names = shift.family(reference, candidate)
        if names is not None:
            found.add((shift, names))
    return found


def _words(tensor_id: TensorId) -> set[str]:
    return {
        word
        for segment in segments(tensor_id.module)
        for word in segment.lower().split("_")
        if not word.isdecimal()
    }


def _fit(reference: tuple[int, ...], candidate: tuple[int, ...]) -> float:
    """How well shapes fit: the same, the same dims in another order, regrouped."""
    if math.prod(reference) != math.prod(candidate) or not reference:
        return 0.0
    if reference == candidate:
        return 2.0
    dims = [sorted(n for n in shape if n != 1) for shape in (reference, candidate)]
    if dims[0] == dims[1]:
        return 1.5
    whole = set(_starts(reference)) <= set(_starts(candidate)) or set(
        _starts(candidate)
    ) <= set(_starts(reference))
    return 1.0 if whole else 0.0


def _starts(shape: tuple[int, ...]) -> list[int]:
    """Products of the first dims, one by one: where dims end."""
    return [math.prod(shape[:n]) for n in range(len(shape) + 1)]


def _forbid_crossing(
    scores: np.ndarray,
    own: Sequence[Output],
    other: Sequence[Output],
    anchors: Sequence[Anchor],
    places: Mapping[Side, Mapping[TensorId, int]],
) -> None:
    """What lies before or behind an output that agrees does so in both runs."""
    pairs = sorted(
        (places[Side.REFERENCE][a.reference], places[Side.CANDIDATE][a.candidate])
        for a in anchors
    )
    columns = np.array([places[Side.CANDIDATE][tensor_id] for _, tensor_id in other])
    for row, (_, tensor_id) in enumerate(own):
        place = places[Side.REFERENCE][tensor_id]
        earlier = [b for a, b in pairs if a < place]
        later = [b for a, b in pairs if a > place]
        scores[row, columns < max(earlier, default=-1)] = 0
        scores[row, columns > min(later, default=np.inf)] = 0


def _forbid_other_turns(
    scores: np.ndarray,
    own: Sequence[Output],
    other: Sequence[Output],
    places: Mapping[Side, Mapping[TensorId, int]],
) -> None:
    """As many calls here as there are layers there: the nth call is the nth layer."""
    calls = [_turns_of_calls(places[side]) for side in Side]
    layers = [_turns_of_layers(places[side]) for side in Side]
    for row, (_, a) in enumerate(own):
        for column, (_, b) in enumerate(other):
            for called, numbered in (
                (calls[0].get(a), layers[1].get(b, {})),
                (calls[1].get(b), layers[0].get(a, {})),
            ):
                if called is None:
                    continue
                turn, count = called
                if numbered.get(count, turn) != turn:
                    scores[row, column] = 0


def _turns_of_calls(outputs: Iterable[TensorId]) -> dict[TensorId, tuple[int, int]]:
    """Which of how many calls of a module gave an output, where there are several."""
    families: dict[object, list[TensorId]] = {}
    for id_ in outputs:
        families.setdefault((id_.module, id_.kind, id_.slot, id_.pass_), []).append(id_)
    return {
        id_: (turn, len(calls))
        for calls in families.values()
        if len(calls) > 1
        for turn, id_ in enumerate(sorted(calls, key=lambda id_: id_.call))
    }


def _turns_of_layers(outputs: Iterable[TensorId]) -> dict[TensorId, dict[int, int]]:
    """Which of so many numbered modules each output is of: its turn, by how many."""
    families: dict[object, dict[int, list[TensorId]]] = {}
    for id_ in outputs:
        names = segments(id_.module)
        for place, number in enumerate(names):
            if number.isdecimal():
                others = (*names[:place], "#", *names[place + 1 :])
                key = (others, id_.kind, id_.slot, id_.call, id_.pass_)
                of_number = families.setdefault(key, {})
                of_number.setdefault(int(number), []).append(id_)
    turns: dict[TensorId, dict[int, int]] = {}
    for numbers in families.values():
        for turn, number in enumerate(sorted(numbers)):
            for id_ in numbers[number]:
                turns.setdefault(id_, {})[len(numbers)] = turn
    return turns
