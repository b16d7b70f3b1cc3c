"""Outputs without counterpart, of which nothing that agrees is computed.

Before the place where two runs part such an output is left alone: what is computed of
it agrees. So are its kin, the same outputs of other layers or calls: had it a
counterpart, the two would hold the same.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.map_proposal.contents import digest_of
from ttrace.map_proposal.layer_numbers import segments
from ttrace.map_proposal.recorded_activations import (
    Activations,
    Instance,
    parents_of,
)

Output = tuple[Instance, TensorId]
"""An output of an instance."""


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


def beyond_agreement(
    sides: Mapping[Side, Activations],
    left: Mapping[Side, Sequence[Output]],
    anchors: Sequence[Anchor],
    places: Mapping[Side, Mapping[TensorId, int]],
) -> tuple[list[Output], list[Output]]:
    """Those of either run, in order of capture.

    Args:
        sides: The activations of both runs.
        left: Outputs that nothing has dealt with, in order of capture.
        anchors: Outputs that agree in value.
        places: Of all outputs of both runs, in order of capture.
    """
    own, alike = _others(
        sides[Side.REFERENCE],
        left[Side.REFERENCE],
        [anchor.reference for anchor in anchors],
    )
    other, _ = _others(
        sides[Side.CANDIDATE],
        left[Side.CANDIDATE],
        [anchor.candidate for anchor in anchors],
    )
    rounded = [anchor for anchor in anchors if anchor.is_rounding]
    agreeing = alike | {anchor.reference.module for anchor in rounded}
    last = max((places[Side.REFERENCE][a.reference] for a in rounded), default=-1)
    # One that lies behind all modules around it is done with where a later one agrees.
    own = [
        output
        for output in _without_kin(own, _within(own, agreeing))
        if output[1].module != ROOT_MODULE
        and (places[Side.REFERENCE][output[1]] > last or "." in output[1].module)
    ]
    calls = [anchor.candidate for anchor in rounded]
    other = _without_kin(other, _within_calls(other, calls, places[Side.CANDIDATE]))
    return own, other


def _others(
    activations: Activations, outputs: Sequence[Output], agreeing: Sequence[TensorId]
) -> tuple[list[Output], set[str]]:
    """The outputs that do not hold what one holds that agrees, such as a dropout's.

    Returns:
        These, and the modules of the rest, which agree as well.
    """
    known = {
        digest_of(array)
        for tensor_id in agreeing
        if (array := activations.array(tensor_id)) is not None
    }
    others: list[Output] = []
    alike: set[str] = set()
    for output in outputs:
        array = activations.array(output[1])
        if array is None:
            continue
        if digest_of(array) in known:
            alike.add(output[1].module)
        else:
            others.append(output)
    return others, alike


def _within(outputs: Sequence[Output], agreeing: set[str]) -> list[TensorId]:
    """Outputs of modules that agree, and of those inside of them."""
    inner = agreeing - {ROOT_MODULE}
    return [
        id_
        for _, id_ in outputs
        if not inner.isdisjoint((id_.module, *parents_of(id_.module)))
    ]


def _within_calls(
    outputs: Sequence[Output], agreeing: Iterable[TensorId], ids: Iterable[TensorId]
) -> list[TensorId]:
    """Outputs in calls that agree: the nth of as many as the module around has."""
    calls = Counter((id_.module, id_.slot) for id_ in ids)
    known = {(id_.module, calls[id_.module, id_.slot], id_.call) for id_ in agreeing}
    return [
        id_
        for _, id_ in outputs
        if any(
            (around, calls[id_.module, id_.slot], id_.call) in known
            for around in parents_of(id_.module)
        )
    ]


def _without_kin(outputs: Sequence[Output], done: Iterable[TensorId]) -> list[Output]:
    """The outputs but for some, and those that differ from them in numbers alone."""
    kin = {_family(id_) for id_ in done}
    return [output for output in outputs if _family(output[1]) not in kin]


def _family(id_: TensorId) -> tuple[object, ...]:
    names = ("#" if name.isdecimal() else name for name in segments(id_.module))
    return (*names, id_.kind, id_.slot)
