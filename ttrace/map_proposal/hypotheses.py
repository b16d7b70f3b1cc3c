"""The transform between tensors of the same elements where most values come twice.

Positions then tell nothing (narrow dtypes have few values), so what is usual is tried:
permuted dims, of one tensor, of several stacked, or of several one after another.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ttrace.ir.transform import AxisPattern, Transform
from ttrace.map_proposal.arrangement import JOINED, Arrangement, apply_arrangement
from ttrace.map_proposal.closeness import permuted_transform

_SAMPLE = 256
_MAX_DIMS = 5


def guess_arrangement(
    parts: Sequence[np.ndarray], whole: np.ndarray
) -> Arrangement | None:
    """How the parts, in the order given, lie in the whole tensor; exact.

    Returns:
        None where no permutation of dims gives it.
    """
    if sum(part.size for part in parts) != whole.size or not whole.size:
        return None
    for array, dim in _together(parts):
        for transform in _exact_transforms(array, whole):
            found = _arrangement(transform, parts, array, dim, whole.shape)
            if found is not None and np.array_equal(
                apply_arrangement(found, parts), whole
            ):
                return found
    return None


def _together(
    parts: Sequence[np.ndarray],
) -> Iterable[tuple[np.ndarray, int | None]]:
    """The parts as one array, and the dim along which they lie; None for a new one."""
    if len(parts) == 1:
        yield parts[0], None
        return
    if len({part.shape for part in parts}) == 1:
        yield np.stack(parts), None
    for dim in range(parts[0].ndim):
        if len({(*p.shape[:dim], *p.shape[dim + 1 :]) for p in parts}) == 1:
            yield np.concatenate(parts, dim), dim


def _exact_transforms(array: np.ndarray, whole: np.ndarray) -> Iterable[Transform]:
    """Permutations that agree with the whole tensor in a sample of elements."""
    real = [dim for dim in range(array.ndim) if array.shape[dim] > 1]
    ones = [dim for dim in range(array.ndim) if array.shape[dim] == 1]
    if len(real) > _MAX_DIMS:
        return
    random = np.random.default_rng(0)
    sample = random.integers(0, whole.size, _SAMPLE)
    expected = whole.reshape(-1)[sample]
    for order in itertools.permutations(real):
        permuted = array.transpose((*order, *ones))
        index = np.unravel_index(sample, permuted.shape)
        if np.array_equal(permuted[index], expected):
            transform = permuted_transform(array.shape, order, whole.shape)
            if transform is not None:
                yield transform


def _arrangement(
    transform: Transform,
    parts: Sequence[np.ndarray],
    array: np.ndarray,
    dim: int | None,
    whole_shape: tuple[int, ...],
) -> Arrangement | None:
    """The same with a name for the axis that joins the parts."""
    part, whole = transform.candidate, transform.reference
    sizes = _sizes(part, array.shape, whole, whole_shape)
    if sizes is None:
        return None
    if len(parts) == 1:
        return Arrangement(part=part, whole=whole, sizes=sizes)
    joined = part.dims[dim or 0]
    if len(joined) != 1:
        return None
    part, whole = (_renamed(pattern, joined[0]) for pattern in (part, whole))
    sizes[JOINED] = sizes.pop(joined[0])
    if dim is None:
        part = AxisPattern(dims=part.dims[1:])
        return Arrangement(part=part, whole=whole, sizes=sizes, joins=True)
    return Arrangement(
        part=part,
        whole=whole,
        sizes=sizes,
        part_sizes=tuple(array.shape[dim] for array in parts),
        joins=True,
    )


def _renamed(pattern: AxisPattern, old: str) -> AxisPattern:
    return AxisPattern(
        dims=tuple(
            tuple(JOINED if axis == old else axis for axis in dim)
            for dim in pattern.dims
        )
    )


def _sizes(
    part: AxisPattern,
    shape: tuple[int, ...],
    whole: AxisPattern,
    whole_shape: tuple[int, ...],
) -> dict[str, int] | None:
    """The length of every axis: of a dim of one side, or what is left of a dim."""
    sizes: dict[str, int] = {}
    dims = [*zip(part.dims, shape, strict=True)]
    dims += zip(whole.dims, whole_shape, strict=True)
    for _ in range(2):
        for axes, length in dims:
            unknown = [axis for axis in axes if axis not in sizes]
            if len(unknown) == 1:
                known = math.prod(sizes[axis] for axis in axes if axis in sizes)
                sizes[unknown[0]] = length // known
    return sizes if {*part.axes, *whole.axes} <= sizes.keys() else None
