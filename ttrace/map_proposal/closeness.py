"""The transform between arrays that agree but for rounding, such as activations."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ttrace.ir.transform import (
    AxisPattern,
    Shape,
    ShapeContradiction,
    Transform,
    solve_sizes,
)

_NAMES = "abcdefgh"


def close_transform(
    candidate: np.ndarray, reference: np.ndarray, tolerance: float
) -> Transform | None:
    """The transform between arrays that agree but for rounding.

    Dims of the candidate are permuted, and neighbours then taken together or apart to
    give the reference's shape; of what agrees, the least change is taken.

    Returns:
        None where nothing agrees within the tolerance (relative Frobenius norm).
    """
    if candidate.size != reference.size:
        return None
    ones = [dim for dim, length in enumerate(candidate.shape) if length == 1]
    real = [dim for dim in range(candidate.ndim) if dim not in ones]
    if len(real) > 5:
        return None
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    for order in itertools.permutations(real):
        made = candidate.transpose((*order, *ones)).reshape(reference.shape)
        error = float(np.linalg.norm(made.astype(np.float64) - reference))
        if error <= tolerance * norm:
            return permuted_transform(candidate.shape, order, reference.shape)
    return None


def permuted_transform(
    shape: tuple[int, ...], order: Sequence[int], reference: tuple[int, ...]
) -> Transform | None:
    """The transform of a permutation and a reshape; None if it is no regrouping.

    Args:
        shape: Of the array that is permuted.
        order: Its dims that are longer than 1, in the new order.
        reference: The shape that comes out.
    """
    # Axes: what the permuted dims and the reference's dims have for common borders.
    permuted = [shape[dim] for dim in order]
    borders = sorted(
        {math.prod(permuted[i:]) for i in range(len(permuted) + 1)}
        | {math.prod(reference[i:]) for i in range(len(reference) + 1)}
    )
    if any(b % a for a, b in itertools.pairwise(borders)):
        return None
    names = {low: _NAMES[i] for i, low in enumerate(reversed(borders[:-1]))}

    def axes_between(low: int, high: int) -> tuple[str, ...]:
        return tuple(
            names[border] for border in reversed(borders[:-1]) if low <= border < high
        )

    def dims_of(lengths: Sequence[int]) -> list[tuple[str, ...]]:
        return [
            axes_between(math.prod(lengths[i + 1 :]), math.prod(lengths[i:]))
            for i in range(len(lengths))
        ]

    own: list[tuple[str, ...]] = [()] * len(shape)
    for dim, axes in zip(order, dims_of(permuted), strict=True):
        own[dim] = axes
    return Transform(
        candidate=AxisPattern(dims=tuple(own)),
        reference=AxisPattern(dims=tuple(dims_of(reference))),
    )


def transform_of_shapes(
    reference: tuple[int, ...], candidate: tuple[int, ...]
) -> Transform | None:
    """The least change of dims that gives a shape, where no values tell it.

    Dims stay in their order if they can: they are regrouped, or else permuted.
    """
    real = [dim for dim, length in enumerate(candidate) if length != 1]
    if math.prod(reference) != math.prod(candidate) or len(real) > 5:
        return None
    for order in itertools.permutations(real):
        transform = permuted_transform(candidate, order, reference)
        if transform is not None and fits_shapes(transform, reference, candidate):
            return transform
    return None


def fits_shapes(
    transform: Transform, reference: tuple[int, ...], candidate: tuple[int, ...]
) -> bool:
    """Whether a transform makes one shape of the other."""
    return solved_sizes(transform, reference, candidate, {}) is not None


def solved_sizes(
    transform: Transform,
    reference: tuple[int, ...],
    candidate: tuple[int, ...],
    known: Mapping[str, int],
) -> dict[str, int] | None:
    """The sizes of all axes of a transform, where it makes one shape of the other.

    Args:
        transform: From the candidate to the reference.
        reference: Shape that comes out.
        candidate: Shape that goes in.
        known: Sizes that are known before.
    """
    given = Shape(dims=transform.candidate.dims, lengths=candidate, name="candidate")
    made = Shape(dims=transform.reference.dims, lengths=reference, name="reference")
    try:
        sizes = solve_sizes([given, made], known)
    except ShapeContradiction:
        return None
    axes = {*transform.candidate.axes, *transform.reference.axes}
    fits = axes <= sizes.keys() and all(
        math.prod(sizes[axis] for axis in dim) == length
        for shape in (given, made)
        for dim, length in zip(shape.dims, shape.lengths, strict=True)
    )
    return {axis: sizes[axis] for axis in axes} if fits else None
