"""The values of the first divergence, as both runs have them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_LEAST_ELEMENTS = 8
"""Fewer are what something makes of the reference's by chance."""

_MOST_UNEXPLAINED = 1e-3
"""Of the norm of the error, that an explanation need not explain."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DivergedValues:
    """A tensor that failed by its values.

    Attributes:
        id: The tensor.
        ours: The candidate's, float64, of the logical shape.
        theirs: The reference's, likewise.
        tolerated: Norm of the difference that its tolerance allows.
    """

    id: TensorId
    ours: np.ndarray
    theirs: np.ndarray
    tolerated: float

    @cached_property
    def difference(self) -> np.ndarray:
        """The error, of the logical shape."""
        return self.ours - self.theirs

    @cached_property
    def norm(self) -> float:
        """That of the error."""
        return float(np.linalg.norm(self.difference))

    @property
    def limit(self) -> float:
        """The norm that an explanation may leave unexplained."""
        return max(self.tolerated, _MOST_UNEXPLAINED * self.norm)

    def is_explained(self, explained: np.ndarray) -> bool:
        """Whether these values are the candidate's, far nearer than the reference's.

        Args:
            explained: What an explanation makes of the reference.
        """
        rest = float(np.linalg.norm(self.ours - explained))
        return rest <= self.limit < self.norm

    def is_reference(self, explained: np.ndarray) -> bool:
        """Whether these values are the reference's, within what is tolerated."""
        return float(np.linalg.norm(self.theirs - explained)) <= self.tolerated


def read_diverged(
    verdict: TensorVerdict | None,
    reference: TraceSource,
    candidate: TraceSource,
    *,
    least_elements: int = _LEAST_ELEMENTS,
) -> DivergedValues | None:
    """Reads the first divergence.

    Args:
        verdict: On it.
        reference: The trusted run.
        candidate: The run under test.
        least_elements: Fewer are not read.

    Returns:
        None where it did not fail by its values, or cannot be read whole, or where the
        runs have other shapes or few elements.
    """
    if not failed_by_values(verdict) or verdict.tolerance is None:
        return None
    ours, theirs = values_of(verdict.id, candidate), values_of(verdict.id, reference)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    if ours.size < least_elements:
        return None
    return DivergedValues(
        id=verdict.id,
        ours=ours,
        theirs=theirs,
        tolerated=verdict.tolerance.difference_norm,
    )
