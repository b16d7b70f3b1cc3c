"""Outputs that no value tells: behind the place where two runs part, by their order.

Where the runs diverge, nothing has the same values any more. Modules with parameters
are still paired by these; values that only a scope names are not, and a map without
them would hide the very place. So what is left there is lined up in order of capture,
as far as shapes allow, for somebody to read. Before that place an output without
counterpart is left alone: what is computed of it agrees.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.map_proposal.alignment import best_alignment
from ttrace.map_proposal.contents import digest_of
from ttrace.map_proposal.layer_numbers import Layers, Shift, likely_shifts, segments
from ttrace.map_proposal.recorded_activations import Activations, Instance

Output = tuple[Instance, TensorId]
"""An output of an instance."""

_MAX_PAIRS = 4_000_000
"""Pairs of outputs that are looked at, at most: the first ones of each side."""

_SAME = {Kind.LOSS: 2.0**6, Kind.GRAD_NORM: 2.0**8}
"""Values of runs that agree differ by fewer epsilons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Two outputs that agree in value.

    Attributes:
        reference: That of the reference.
        candidate: That of the candidate.
        is_rounding: They differ by no more than rounding. What an output is made of
            agrees, too, then.
    """

    reference: TensorId
    candidate: TensorId
    is_rounding: bool = True


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
    agreeing = {
        Side.REFERENCE: [anchor.reference for anchor in anchors],
        Side.CANDIDATE: [anchor.candidate for anchor in anchors],
    }
    other_contents = {
        side: _others(sides[side], left[side], agreeing[side]) for side in Side
    }
    own = _behind(other_contents[Side.REFERENCE], anchors, places[Side.REFERENCE])
    other = other_contents[Side.CANDIDATE]
    while len(own) * len(other) > _MAX_PAIRS:
        longer = own if len(own) > len(other) else other
        del longer[len(longer) // 2 :]
    if not own or not other:
        return []
    scores = _scores(sides, own, other, anchors, layers)
    _forbid_crossing(scores, own, other, anchors, places)
    return [(own[a], other[b]) for a, b in best_alignment(scores)]


def _others(
    activations: Activations, outputs: Sequence[Output], agreeing: Sequence[TensorId]
) -> list[Output]:
    """The outputs that do not hold what one holds that agrees, such as a dropout's."""
    known = {
        digest_of(array)
        for tensor_id in agreeing
        if (array := activations.array(tensor_id)) is not None
    }
    return [
        output
        for output in outputs
        if (array := activations.array(output[1])) is not None
        and digest_of(array) not in known
    ]


def _behind(
    outputs: Sequence[Output], anchors: Sequence[Anchor], places: Mapping[TensorId, int]
) -> list[Output]:
    """The outputs of which nothing that agrees is computed.

    An output is done with where its module, one around it, or one that lies behind all
    modules around it, agrees.
    """
    agreeing = {anchor.reference.module for anchor in anchors if anchor.is_rounding}
    last = max((places[a.reference] for a in anchors if a.is_rounding), default=-1)
    left = []
    for output in outputs:
        tensor_id = output[1]
        path = tensor_id.module.split(".")
        around = {".".join(path[:n]) for n in range(1, len(path))}
        if tensor_id.module == ROOT_MODULE or (around | {tensor_id.module}) & agreeing:
            continue
        if places[tensor_id] > last or around:
            left.append(output)
    return left


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
