"""Which activations of two runs agree in value, and how their elements lie."""

from collections.abc import Mapping

import numpy as np

from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.transform import Transform
from ttrace.map_proposal.closeness import close_transform
from ttrace.map_proposal.recorded_activations import Activations

_ROUNDING = 2.0**6
"""What rounding alone makes of a forward, in epsilons."""


class Agreements:
    """Compares activations of two runs; each pair once.

    Attributes:
        sides: The activations of both runs.
    """

    def __init__(self, sides: Mapping[Side, Activations]):
        self.sides = sides
        self._found: dict[tuple[TensorId, TensorId], Transform | None] = {}

    def transform(self, reference: TensorId, candidate: TensorId) -> Transform | None:
        """How the candidate's values are the reference's, or None if they are not."""
        key = (reference, candidate)
        if key not in self._found:
            self._found[key] = self._find(reference, candidate)
        return self._found[key]

    def is_rounding(self, reference: TensorId, candidate: TensorId) -> bool:
        """Whether two that agree differ by no more than rounding.

        What they are made of may differ by more, where it is a small part of them.
        """
        own = self.sides[Side.REFERENCE].array(reference)
        other = self.sides[Side.CANDIDATE].array(candidate)
        if own is None or other is None:
            return False
        tolerance = max(
            self.sides[Side.REFERENCE].tolerance(reference, _ROUNDING),
            self.sides[Side.CANDIDATE].tolerance(candidate, _ROUNDING),
        )
        return close_transform(other, own, tolerance) is not None

    def tolerance(self, reference: TensorId, candidate: TensorId) -> float:
        """The relative difference up to which values agree."""
        return max(
            self.sides[Side.REFERENCE].tolerance(reference),
            self.sides[Side.CANDIDATE].tolerance(candidate),
        )

    def _find(self, reference: TensorId, candidate: TensorId) -> Transform | None:
        own = self.sides[Side.REFERENCE].array(reference)
        other = self.sides[Side.CANDIDATE].array(candidate)
        if own is None or other is None or own.size != other.size:
            return None
        tolerance = self.tolerance(reference, candidate)
        norms = [float(np.linalg.norm(x.astype(np.float64))) for x in (own, other)]
        if abs(norms[0] - norms[1]) > tolerance * norms[0]:
            return None
        return close_transform(other, own, tolerance)
