"""Finds the transform between tensors of the same elements, from their positions.

An element whose value comes once tells where it went. Along each dim of a part, the
positions in the whole tensor advance by strides; where a stride changes, the dim is
made of several axes. What is found is verified on all elements.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.transform import AxisPattern
from ttrace.map_proposal.arrangement import JOINED, Arrangement, apply_arrangement

_NAMES = "abcdefghklmnopqrsuvwxyz"
_MAX_LINES = 64
_FEWEST_DIMS_OF_KERNEL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Digit:
    """One axis of a dim of a part: ``length`` indices, ``stride`` apart in the whole.

    Attributes:
        length: How many indices.
        stride: How many elements of the whole tensor lie between two.
    """

    length: int
    stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """The axes of a part by dim, outermost first, and where its first element lies."""

    dims: tuple[tuple[_Digit, ...], ...]
    base: int


def derive_arrangement(
    parts: Sequence[np.ndarray], whole: np.ndarray
) -> Arrangement | None:
    """How the elements of the parts lie in the whole tensor, together all of it.

    Args:
        parts: Arrays of the same number of dims.
        whole: An array of as many elements.

    Returns:
        None where no arrangement of axes, with at most one of them joined, does it.
    """
    if sum(part.size for part in parts) != whole.size or not whole.size:
        return None
    positions = _Positions(whole)
    if len(parts) == 1 and (dims := _flipped_dims(parts[0], positions)):
        found = derive_arrangement([np.flip(parts[0], dims)], whole)
        if found is None:
            return None
        flipped = frozenset(axis for dim in dims for axis in found.part.dims[dim])
        return replace(found, flipped=flipped)
    placed = []
    for part in parts:
        found = _place(part, positions, whole.shape)
        if found is None:
            return None
        placed.append(found)
    arrangement = _name_axes(placed, [part.shape for part in parts], whole.shape)
    if arrangement is None or not _holds(arrangement, parts, whole):
        return None
    return arrangement


class _Positions:
    """Where the values of an array are that come only once."""

    def __init__(self, whole: np.ndarray):
        words = _words(whole)
        self._order = np.argsort(words, kind="stable")
        self._sorted = words[self._order]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Flat positions, int64; -1 where a value comes never or more than once."""
        words = _words(values)
        first = np.searchsorted(self._sorted, words, side="left")
        after = np.searchsorted(self._sorted, words, side="right")
        found = self._order[np.minimum(first, self._order.size - 1)]
        return np.where(after - first == 1, found, -1).reshape(values.shape)


def _words(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)


def _flipped_dims(part: np.ndarray, positions: _Positions) -> tuple[int, ...]:
    """The dims along which positions in the whole tensor go back all the way.

    Of kernels of convolutions only: nobody flips a matrix.
    """
    if part.ndim < _FEWEST_DIMS_OF_KERNEL:
        return ()
    flipped = []
    for dim in range(part.ndim):
        steps = _steps_along(part, dim, positions) if part.shape[dim] > 1 else None
        if steps is not None and (np.diff(steps) < 0).all():
            flipped.append(dim)
    return tuple(flipped)


def _place(
    part: np.ndarray, positions: _Positions, whole_shape: tuple[int, ...]
) -> _Placed | None:
    dims = []
    for dim, length in enumerate(part.shape):
        steps = _steps_along(part, dim, positions)
        if steps is None:
            return None
        digits = _digits(steps, length)
        if digits is None:
            return None
        dims.append(
            tuple(cut for digit in digits for cut in _cut_at_dims(digit, whole_shape))
        )
    base = _base(part, dims, positions)
    return None if base is None else _Placed(dims=tuple(dims), base=base)


def _steps_along(
    part: np.ndarray, dim: int, positions: _Positions
) -> np.ndarray | None:
    """Positions along a dim, relative to its first index; from lines that tell."""
    lines = np.moveaxis(part, dim, -1).reshape(-1, part.shape[dim])
    random = np.random.default_rng(0)
    num_lines = min(_MAX_LINES, len(lines))
    chosen = lines[random.choice(len(lines), num_lines, replace=False)]
    found = positions.of(chosen)
    begins = found[found[:, 0] >= 0]
    # Without a line whose beginning is known, one has to do.
    found = begins if len(begins) else found[:1]
    known = found >= 0
    first_known = np.argmax(known, axis=0)
    steps = found[first_known, np.arange(found.shape[1])] - found[first_known, 0]
    return _continued(steps, np.any(known, axis=0, keepdims=True)[0])


def _continued(steps: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """Fills in what is not known as if neighbours went on; all is verified later."""
    steps, known = steps.copy(), known.copy()
    while not known.all():
        before = known.sum()
        for index in np.flatnonzero(~known):
            for near, far in ((index - 1, index - 2), (index + 1, index + 2)):
                if 0 <= min(near, far) and max(near, far) < known.size:
                    if known[near] and known[far]:
                        steps[index] = 2 * steps[near] - steps[far]
                        known[index] = True
                        break
        if known.sum() == before:
            return None
    return steps - steps[0]


def _digits(steps: np.ndarray, length: int) -> list[_Digit] | None:
    """The axes of a dim, outermost first: steps as a sum of a multiple for each."""
    digits: list[_Digit] = []
    inner = 1  # length of the axes found so far
    while inner < length:
        stride = int(steps[inner])
        multiples = steps[::inner]
        regular = multiples == stride * np.arange(multiples.size)
        run = multiples.size if regular.all() else int(np.argmin(regular))
        if multiples.size % run:
            return None
        digits.insert(0, _Digit(length=run, stride=stride))
        inner *= run
    return digits


def _cut_at_dims(digit: _Digit, shape: tuple[int, ...]) -> list[_Digit]:
    """Cuts an axis where it crosses from one dim of the whole tensor to the next."""
    cut = []
    rest = digit
    for dim in reversed(range(len(shape))):
        after = math.prod(shape[dim:])  # stride of the dim before this one
        if rest.length == 1 or rest.stride <= 0 or rest.stride >= after:
            continue
        if after % rest.stride:
            break
        within = after // rest.stride
        if within >= rest.length or rest.length % within:
            break
        cut.insert(0, _Digit(length=within, stride=rest.stride))
        rest = _Digit(length=rest.length // within, stride=after)
    return [rest, *cut]


def _base(
    part: np.ndarray, dims: Sequence[Sequence[_Digit]], positions: _Positions
) -> int | None:
    """Position of the first element, from some element whose position is known."""
    flat = part.reshape(-1)
    sample = positions.of(flat[:_MAX_LINES])
    known = np.flatnonzero(sample >= 0)
    if not known.size:
        return None
    index = int(known[0])
    offset = 0
    digits = [digit for dim in dims for digit in dim]
    rest = index
    for digit in reversed(digits):
        rest, own = divmod(rest, digit.length)
        offset += own * digit.stride
    return int(sample[index]) - offset


def _name_axes(
    placed: Sequence[_Placed],
    shapes: Sequence[tuple[int, ...]],
    whole_shape: tuple[int, ...],
) -> Arrangement | None:
    """Names for the axes, and the joined one between them."""
    if len(placed) == 1:
        return _name_one(placed[0], whole_shape)
    return _name_joined(placed, whole_shape)


def _name_one(placed: _Placed, whole_shape: tuple[int, ...]) -> Arrangement | None:
    names = iter(_NAMES)
    part_dims: list[tuple[str, ...]] = []
    axes: list[tuple[_Digit, str]] = []
    for dim in placed.dims:
        own = [(digit, next(names)) for digit in dim if digit.length > 1]
        axes += own
        part_dims.append(tuple(name for _, name in own))
    whole_dims = _tile(axes, whole_shape)
    if whole_dims is None:
        return None
    return Arrangement(
        part=AxisPattern(dims=tuple(part_dims)),
        whole=AxisPattern(dims=whole_dims),
        sizes={name: digit.length for digit, name in axes},
    )


def _tile(
    axes: Sequence[tuple[_Digit, str]], shape: tuple[int, ...]
) -> tuple[tuple[str, ...], ...] | None:
    """Which axes each dim of a shape is made of, if they fill it."""
    left = sorted(axes, key=lambda axis: axis[0].stride)
    dims: list[tuple[str, ...]] = []
    stride = 1
    for length in reversed(shape):
        own: list[str] = []
        filled = 1
        while filled < length:
            if not left or left[0][0].stride != stride * filled:
                return None
            digit, name = left.pop(0)
            own.insert(0, name)
            filled *= digit.length
        if filled != length:
            return None
        dims.insert(0, tuple(own))
        stride *= length
    return None if left else tuple(dims)


def _name_joined(
    placed: Sequence[_Placed], whole_shape: tuple[int, ...]
) -> Arrangement | None:
    """The same with one axis of which each part has a range."""
    # The dim at which the parts lie one after another: where their starts differ.
    starts = [_index_of(item.base, whole_shape) for item in placed]
    differing = {
        dim
        for start in starts
        for dim, (own, first) in enumerate(zip(start, starts[0], strict=True))
        if own != first
    }
    if len(differing) != 1:
        return None
    (joined_dim,) = differing
    if any(
        start[dim] != 0
        for start in starts
        for dim in range(len(whole_shape))
        if dim != joined_dim
    ):
        return None
    dim_stride = math.prod(whole_shape[joined_dim + 1 :])
    offsets = [start[joined_dim] for start in starts]
    widest = math.gcd(*offsets, whole_shape[joined_dim])
    found = [
        arrangement
        for unit in range(1, widest + 1)
        if widest % unit == 0
        for arrangement in [_join_at(placed, offsets, unit, dim_stride, whole_shape)]
        if arrangement is not None
    ]
    # The simplest: each part one index of the axis, or else the fewest axes.
    return min(
        found,
        key=lambda arrangement: (
            arrangement.part_sizes is not None,
            len(arrangement.sizes),
        ),
        default=None,
    )


def _join_at(
    placed: Sequence[_Placed],
    offsets: Sequence[int],
    unit: int,
    dim_stride: int,
    whole_shape: tuple[int, ...],
) -> Arrangement | None:
    """The joined axis, if so many elements of its dim lie inside of it."""
    stride = unit * dim_stride
    parts = []
    for item in placed:
        cut = _cut_part(item, unit, dim_stride)
        if cut is None:
            return None
        parts.append(cut)
    lengths = [_length_at(item, stride) for item in parts]
    ends = list(itertools.accumulate(lengths))
    if [end * unit for end in ends[:-1]] != offsets[1:]:
        return None
    if all(length == 1 for length in lengths):
        return _absent_axis(parts, stride, whole_shape)
    return _present_axis(parts, lengths, stride, whole_shape)


def _length_at(item: _Placed, stride: int) -> int:
    digits = (digit for dim in item.dims for digit in dim)
    return next((digit.length for digit in digits if digit.stride == stride), 1)


def _index_of(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(position, shape))


def _cut_part(item: _Placed, unit: int, dim_stride: int) -> _Placed | None:
    """Cuts the axis that crosses the beginning of the joined one."""
    border = unit * dim_stride
    dims = []
    for dim in item.dims:
        digits: list[_Digit] = []
        for digit in dim:
            if digit.stride < border < digit.stride * digit.length:
                within, rest = divmod(border, digit.stride)
                if rest or digit.length % within:
                    return None
                outer = _Digit(length=digit.length // within, stride=border)
                digits += [outer, _Digit(length=within, stride=digit.stride)]
            else:
                digits.append(digit)
        dims.append(tuple(digits))
    return _Placed(dims=tuple(dims), base=item.base)


def _absent_axis(
    parts: Sequence[_Placed], stride: int, whole_shape: tuple[int, ...]
) -> Arrangement | None:
    """Each part is one index of the joined axis."""
    if any(item.dims != parts[0].dims for item in parts):
        return None
    named = _named(parts[0])
    axes = [axis for dim in named for axis in dim]
    joined = (_Digit(length=len(parts), stride=stride), JOINED)
    whole_dims = _tile([*axes, joined], whole_shape)
    if whole_dims is None:
        return None
    return Arrangement(
        part=AxisPattern(dims=tuple(tuple(name for _, name in dim) for dim in named)),
        whole=AxisPattern(dims=whole_dims),
        sizes={name: digit.length for digit, name in (*axes, joined)},
        joins=True,
    )


def _present_axis(
    parts: Sequence[_Placed],
    lengths: Sequence[int],
    stride: int,
    whole_shape: tuple[int, ...],
) -> Arrangement | None:
    """Parts have ranges of the joined axis, of other lengths."""
    total = _Digit(length=sum(lengths), stride=stride)
    patterns = []
    axes: list[tuple[_Digit, str]] = []
    for item, length in zip(parts, lengths, strict=True):
        names = iter(_NAMES)
        dims = []
        own_axes = []
        for dim in item.dims:
            own = []
            for digit in dim:
                if digit.stride == stride and digit.length == length:
                    own.append((total, JOINED))
                elif digit.length > 1:
                    own.append((digit, next(names)))
            own_axes += own
            dims.append(tuple(name for _, name in own))
        patterns.append(tuple(dims))
        if len(own_axes) > len(axes):
            axes = own_axes
    longest = max(patterns, key=lambda dims: sum(map(len, dims)))
    # A part that has one index of the joined axis need not show it.
    if len({_without_joined(dims) for dims in patterns}) > 1:
        return None
    whole_dims = _tile(axes, whole_shape)
    if whole_dims is None:
        return None
    return Arrangement(
        part=AxisPattern(dims=longest),
        whole=AxisPattern(dims=whole_dims),
        sizes={name: digit.length for digit, name in axes},
        part_sizes=tuple(lengths),
        joins=True,
    )


def _without_joined(dims: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(axis for axis in dim if axis != JOINED) for dim in dims)


def _named(item: _Placed) -> list[list[tuple[_Digit, str]]]:
    names = iter(_NAMES)
    return [
        [(digit, next(names)) for digit in dim if digit.length > 1] for dim in item.dims
    ]


def _holds(
    arrangement: Arrangement, parts: Sequence[np.ndarray], whole: np.ndarray
) -> bool:
    """Whether every element is where the arrangement says."""
    made = apply_arrangement(arrangement, parts)
    return made.shape == whole.shape and np.array_equal(_words(made), _words(whole))
