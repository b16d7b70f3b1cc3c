"""Modules that end elsewhere: one side does inside what the other does behind it.

A port scales behind its embedding what the reference scales inside of it; a bias, an
activation, a dropout or a cap of the logits moves likewise. The outputs of the two
modules are unlike then, and nothing is wrong: what is made of them agrees.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.map_proposal.closeness import close_transform
from ttrace.map_proposal.contents import digest_of, is_distinct
from ttrace.map_proposal.diverged import runs_agree
from ttrace.map_proposal.recorded_activations import (
    WITH_GRADIENTS,
    Activations,
    pattern_text,
)
from ttrace.map_proposal.units import Pairing


class Borders:
    """Tells outputs that are unlike, although the same is made of them.

    Args:
        sides: The activations of both runs.
        pairings: What is paired, which grows meanwhile.
    """

    def __init__(self, sides: Mapping[Side, Activations], pairings: Sequence[Pairing]):
        self._sides = sides
        self._pairings = pairings
        self._num_noted = 0
        self._agrees: dict[Side, dict[tuple[str, Kind], bool]] = {s: {} for s in Side}
        self._texts: dict[Side, dict[TensorId, str]] = {}
        self._by_content: dict[Side, dict[tuple[int, int], list[TensorId]]] = {}

    def reason(
        self, of_reference: TensorId, of_candidate: TensorId, tolerance: float
    ) -> str | None:
        """Why two outputs may differ; None where what follows does not agree.

        The reference's goes on as it is, to a module whose input agrees, and so the
        candidate has it, too; or the other way round. Where neither goes on as it is,
        both runs must agree in loss and gradients.

        Args:
            of_reference: Output of a module of the reference.
            of_candidate: That of its counterpart.
            tolerance: Relative difference up to which values agree.
        """
        outputs = {Side.REFERENCE: of_reference, Side.CANDIDATE: of_candidate}
        arrays = {side: self._sides[side].array(outputs[side]) for side in Side}
        own, other = arrays[Side.REFERENCE], arrays[Side.CANDIDATE]
        if own is None or other is None or own.size != other.size:
            return None
        if not is_distinct(own) or not is_distinct(other):
            return None
        readers = [
            (side, tensor_id)
            for side in Side
            for tensor_id in self._readers(side, outputs[side])
        ]
        agree = {self._agree(*reader) for reader in readers}
        if False in agree:
            return None
        if True in agree:
            follows = "what follows agrees"
        elif not readers and self._gradients_agree():
            follows = "losses and gradients agree"
        else:
            return None
        factor = _factor(own, other, tolerance)
        if factor is None:
            return (
                f"the outputs differ, and {follows}: something that one side "
                "computes inside of the module"
            )
        return (
            f"the reference's output is {factor:.4g} times the candidate's, and "
            f"{follows}: a factor that one side applies inside of the module"
        )

    def _agree(self, side: Side, tensor_id: TensorId) -> bool | None:
        """Whether an activation agrees with what it is paired with; None if unpaired.

        By the last of several pairings.
        """
        for pairing in self._pairings[self._num_noted :]:
            for each, texts in zip(
                Side, (pairing.reference, pairing.candidate), strict=True
            ):
                for text in texts:
                    for kind in pairing.kinds:
                        self._agrees[each][text, kind] = pairing.agrees
        self._num_noted = len(self._pairings)
        if side not in self._texts:
            self._texts[side] = {
                found: pattern_text(instance, found)
                for instance in self._sides[side].instances()
                for kind in WITH_GRADIENTS
                for found in self._sides[side].slots(instance, kind).values()
            }
        text = self._texts[side].get(tensor_id)
        return None if text is None else self._agrees[side].get((text, tensor_id.kind))

    def _gradients_agree(self) -> bool:
        has_norms = all(
            self._sides[side].scalar(Kind.GRAD_NORM) is not None for side in Side
        )
        return has_norms and runs_agree(self._sides)

    def _readers(self, side: Side, output: TensorId) -> list[TensorId]:
        """Inputs and outputs of other modules, further on, that hold the same.

        None of a module that gives what it is given: others may have that, too.
        """
        array = self._sides[side].array(output)
        if array is None:
            return []
        same = self._contents(side).get((array.size, digest_of(array)), [])
        if any(i.module == output.module and i.kind is Kind.INPUT for i in same):
            return []
        later = same[same.index(output) + 1 :]
        return [tensor_id for tensor_id in later if tensor_id.module != output.module]

    def _contents(self, side: Side) -> Mapping[tuple[int, int], list[TensorId]]:
        if side not in self._by_content:
            found = self._by_content.setdefault(side, {})
            for tensor_id in self._sides[side].order():
                array = self._sides[side].array(tensor_id)
                if array is not None and self._sides[side].is_float(tensor_id):
                    key = (array.size, digest_of(array))
                    found.setdefault(key, []).append(tensor_id)
        return self._by_content[side]


def _factor(own: np.ndarray, other: np.ndarray, tolerance: float) -> float | None:
    """How many times the candidate's values the reference's are; None if no number."""
    norms = [float(np.linalg.norm(x.astype(np.float64))) for x in (own, other)]
    if not norms[1]:
        return None
    for factor in (norms[0] / norms[1], -norms[0] / norms[1]):
        if close_transform(other * factor, own, tolerance) is not None:
            return factor
    return None
