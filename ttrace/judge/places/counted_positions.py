"""Positions that are counted up, and begin anew at other places."""

from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.reading.diverged_values import DivergedValues

_LEAST_LENGTH = 4
"""Positions of a sample; fewer are counted up by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedPositions:
    """Positions in which every one is the one before and one more, or begins anew.

    Attributes:
        id: The tensor.
        dim: Along which they are counted.
        reference: Places after the first of a sample at which they begin anew there.
        candidate: Likewise.
        common: Those of both.
    """

    id: TensorId
    dim: int
    reference: int
    candidate: int
    common: int


def find_counted_positions(values: DivergedValues | None) -> CountedPositions | None:
    """Looks whether both runs have such positions.

    Args:
        values: Of the first divergence.
    """
    if values is None or values.id.kind not in (Kind.INPUT, Kind.OUTPUT):
        return None
    for dim in reversed(range(values.ours.ndim)):
        if values.ours.shape[dim] < _LEAST_LENGTH:
            continue
        anew = [
            _begins_anew(np.moveaxis(each, dim, -1))
            for each in (values.ours, values.theirs)
        ]
        ours, theirs = anew
        if ours is None or theirs is None or (ours == theirs).all():
            continue
        return CountedPositions(
            id=values.id,
            dim=dim,
            reference=int(theirs.sum()),
            candidate=int(ours.sum()),
            common=int((ours & theirs).sum()),
        )
    return None


def _begins_anew(positions: np.ndarray) -> np.ndarray | None:
    """Where they do, bool; None if they are not counted up along the last dim."""
    steps = np.diff(positions, axis=-1)
    anew = (steps != 1) & (positions[..., 1:] == 0)
    starts_at_0 = not positions[..., 0].any()
    return anew if starts_at_0 and ((steps == 1) | anew).all() else None
