"""How tensors lie in a whole one, as a value, and the whole made of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.transform import AxisPattern

JOINED = "part"
"""Name of the axis that joins several tensors, in what is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """How parts lie in a whole tensor.

    Attributes:
        part: The dims of a part, in axes of the whole tensor.
        whole: The dims of the whole tensor.
        sizes: Length of each axis; of the joined one, of all parts together.
        part_sizes: What each part has of the joined axis; None if nothing is joined, or
            each part is one index.
        joins: Whether the parts are joined.
        flipped: Axes of a single part that run the other way in the whole tensor.
    """

    part: AxisPattern
    whole: AxisPattern
    sizes: dict[str, int]
    part_sizes: tuple[int, ...] | None = None
    joins: bool = False
    flipped: frozenset[str] = frozenset()


def apply_arrangement(
    arrangement: Arrangement, parts: Sequence[np.ndarray]
) -> np.ndarray:
    """Makes the whole tensor out of its parts."""
    axes = arrangement.part.axes
    apart = []
    for number, part in enumerate(parts):
        lengths = dict(arrangement.sizes)
        if arrangement.part_sizes is not None:
            lengths[JOINED] = arrangement.part_sizes[number]
        own = part.reshape([lengths[axis] for axis in axes])
        if arrangement.flipped:
            own = np.flip(own, tuple(map(axes.index, arrangement.flipped)))
        if arrangement.joins and JOINED not in axes:
            own = own[None]
        apart.append(own)
    if not arrangement.joins:
        array, order = apart[0], list(axes)
    elif JOINED in axes:
        array, order = np.concatenate(apart, axes.index(JOINED)), list(axes)
    else:
        array, order = np.concatenate(apart), [JOINED, *axes]
    array = array.transpose([order.index(axis) for axis in arrangement.whole.axes])
    return array.reshape(
        [
            math.prod(arrangement.sizes[axis] for axis in dim)
            for dim in arrangement.whole.dims
        ]
    )
