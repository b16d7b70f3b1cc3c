"""Outputs whose modules have no counterpart, found by what they hold."""

import bisect
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.map_proposal.beyond_agreement import Output
from ttrace.map_proposal.contents import is_distinct
from ttrace.map_proposal.recorded_activations import (
    Activations,
    Instance,
    pattern_text,
)
from ttrace.map_proposal.units import Pairing


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Two outputs that hold the same.

    Attributes:
        reference: That of the reference.
        candidate: That of the candidate.
        is_only: No other one that is left holds the same.
    """

    reference: Output
    candidate: Output
    is_only: bool


def match_leftovers(
    sides: dict[Side, Activations],
    pairings: Sequence[Pairing],
    explained: Mapping[Side, Container[tuple[str, Kind, str | None]]],
    are_same: Callable[[TensorId, TensorId], bool],
) -> list[Found]:
    """Finds outputs of the candidate among those of the reference.

    Args:
        sides: The activations of both runs.
        pairings: What has been paired already.
        explained: Slots of modules (module, kind, slot) that cannot be compared.
        are_same: Whether an output of the reference and one of the candidate agree in
            value, in some order of elements.
    """
    left = leftovers(sides, pairings, explained)
    by_norm = _Norms(sides[Side.REFERENCE], left[Side.REFERENCE])
    found: list[tuple[Output, Output]] = []
    for output in left[Side.CANDIDATE]:
        array = sides[Side.CANDIDATE].array(output[1])
        if array is None:
            continue
        tolerance = sides[Side.CANDIDATE].tolerance(output[1])
        found += [
            (own, output)
            for own in by_norm.near(array, tolerance)
            if are_same(own[1], output[1])
        ]
    orders = {side: sides[side].order() for side in Side}
    pairs: list[Found] = []
    for own, other in _components(found):
        own.sort(key=lambda output: orders[Side.REFERENCE][output[1]])
        other.sort(key=lambda output: orders[Side.CANDIDATE][output[1]])
        # What a norm gives before its scale of ones is the earlier of two, what a
        # dropout passes on the later.
        num_pairs = min(len(own), len(other))
        pairs += [
            Found(reference=a, candidate=b, is_only=len(own) == len(other) == 1)
            for a, b in zip(own[:num_pairs], other[-num_pairs:], strict=True)
            if (a, b) in found
        ]
    return pairs


def _components(
    found: Sequence[tuple[Output, Output]],
) -> list[tuple[list[Output], list[Output]]]:
    """Outputs that hold the same, of both runs."""
    components: list[tuple[list[Output], list[Output]]] = []
    of_own: dict[Output, int] = {}
    of_other: dict[Output, int] = {}
    for own, other in found:
        number = of_own.get(own, of_other.get(other))
        if number is None:
            number = len(components)
            components.append(([], []))
        if own not in of_own:
            of_own[own] = number
            components[number][0].append(own)
        if other not in of_other:
            of_other[other] = number
            components[number][1].append(other)
    return components


def leftovers(
    sides: Mapping[Side, Activations],
    pairings: Sequence[Pairing],
    explained: Mapping[Side, Container[tuple[str, Kind, str | None]]],
) -> dict[Side, list[Output]]:
    """Outputs of distinct values that nothing has dealt with, in order of capture.

    Args:
        sides: See ``match_leftovers``.
        pairings: See there.
        explained: See there.
    """
    left = {}
    for side in Side:
        taken = {
            (text, kind)
            for pairing in pairings
            for text in (
                pairing.reference if side is Side.REFERENCE else pairing.candidate
            )
            for kind in pairing.kinds
        }
        found = _leftovers(sides[side], taken, explained[side])
        order = sides[side].order()
        left[side] = sorted(found, key=lambda output, order=order: order[output[1]])
    return left


def _leftovers(
    activations: Activations,
    taken: set[tuple[str, Kind]],
    explained: Container[tuple[str, Kind, str | None]],
) -> list[Output]:
    """Those of one run."""
    instances = activations.instances()
    by_call = {item.module for item in instances if item.call is not None}
    left = []
    for item in instances:
        if item.call is None and item.module in by_call:
            continue
        whole = Instance(module=item.module)
        for slot, tensor_id in activations.slots(item, Kind.OUTPUT).items():
            if (item.module, Kind.OUTPUT, slot) in explained:
                continue
            names = {pattern_text(item, tensor_id), pattern_text(whole, tensor_id)}
            if any((name, Kind.OUTPUT) in taken for name in names):
                continue
            array = activations.array(tensor_id)
            if array is not None and array.dtype.kind == "f" and is_distinct(array):
                left.append((item, tensor_id))
    return left


class _Norms:
    """Outputs by number of elements and norm, to look few of them up."""

    def __init__(self, activations: Activations, outputs: Sequence[Output]):
        self._by_size: dict[int, list[tuple[float, int]]] = {}
        self._outputs = outputs
        for number, (_, tensor_id) in enumerate(outputs):
            array = activations.array(tensor_id)
            if array is not None:
                key = (_norm(array), number)
                bisect.insort(self._by_size.setdefault(array.size, []), key)

    def near(self, array: np.ndarray, tolerance: float) -> list[Output]:
        """Those whose norm is about that of an array, in order of capture."""
        norm = _norm(array)
        keys = self._by_size.get(array.size, [])
        start = bisect.bisect_left(keys, (norm * (1 - 2 * tolerance), -1))
        stop = bisect.bisect_right(
            keys, (norm * (1 + 2 * tolerance), len(self._outputs))
        )
        return [self._outputs[n] for n in sorted(n for _, n in keys[start:stop])]


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))
