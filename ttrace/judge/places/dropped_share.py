"""Whether a tensor differs by what was dropped of another one, which it is a sum of.

Dropout that no module does leaves no zeros where its result is added to something.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.parts import Part
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.diverged_values import DivergedValues
from ttrace.judge.reading.earlier_outputs import outputs_before
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_LEAST_ELEMENTS = 8
"""Values that must be dropped in the one run only, and in the other only."""

_MOST_READ = 8
"""Outputs that are read, the nearest first."""

_LARGEST_SCALE = 10.0
"""What is kept is divided by the share that is; at rates above 0.9 nobody trains."""

_ROUNDINGS = 1e-3
"""Relative, by which a difference may be off a multiple of what was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedShare:
    """A tensor that has other elements of another one, and differs by nothing else.

    Attributes:
        id: The tensor.
        of: The output that agrees, of which the runs keep other elements.
        scale: What they are multiplied by where they are kept.
        share: Of the elements, those that only one run keeps.
        agreeing: Indices of the first dim at which both keep the same; None if there
            are none.
    """

    id: TensorId
    of: TensorId
    scale: float
    share: float
    agreeing: Part | None

    @property
    def rate(self) -> float:
        """Of what drops and keeps the mean as it is."""
        return 1 - 1 / self.scale


def find_dropped_share(
    values: DivergedValues | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
) -> DroppedShare | None:
    """Looks for the output of which a tensor has other elements.

    Args:
        values: Of the first divergence.
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
    """
    if values is None or values.id.kind not in (Kind.INPUT, Kind.OUTPUT):
        return None
    for id_ in outputs_before(values.id, verdicts)[:_MOST_READ]:
        kept = values_of(id_, reference)
        if kept is None or kept.shape != values.theirs.shape:
            continue
        scale = _scale(values, kept)
        if scale is None:
            continue
        differs = np.abs(values.difference) > scale * np.abs(kept) / 2
        touched = differs.reshape(len(differs), -1).any(axis=1)
        agreeing = np.flatnonzero(~touched)
        return DroppedShare(
            id=values.id,
            of=id_,
            scale=scale,
            share=float(differs.mean()),
            agreeing=Part.of_indices(0, agreeing) if agreeing.size else None,
        )
    return None


def _scale(values: DivergedValues, kept: np.ndarray) -> float | None:
    """What it is that every difference is 0 or plus or minus so many times of."""
    signs = np.sign(values.difference * kept)
    more, less = signs > 0, signs < 0
    if not kept.any():
        return None
    large = np.abs(kept) > np.median(np.abs(kept))
    ratios = np.abs(values.difference[large]) / np.abs(kept[large])
    scale = float(ratios.max(initial=0.0))
    is_whole = np.abs(ratios - scale) <= _ROUNDINGS * scale
    if not is_whole.any() or not 1 < scale <= _LARGEST_SCALE:
        return None
    scale = float(np.median(ratios[is_whole]))
    differs = np.abs(values.difference) > scale * np.abs(kept) / 2
    explained = values.theirs + np.where(differs, scale * kept * signs, 0)
    numbers = [int((differs & side).sum()) for side in (more, less)]
    if min(numbers) < _LEAST_ELEMENTS or not values.is_explained(explained):
        return None
    return scale
