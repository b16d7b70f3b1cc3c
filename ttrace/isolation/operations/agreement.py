"""Whether what several ranks hold is a value of the reference, however it is laid out.

A value agrees where every rank holds all of it, or where the ranks hold the blocks that
it falls into, or where those of a mesh axis add up to either. Dims may stand in another
order or be merged, where the shapes show it; the elements must agree in their places.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.dtypes import dtype_named
from ttrace.isolation.operations.call import Holder

_MAX_DIMS = 6

_NUM_FIRST = 16
"""Elements that are compared before all of them are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """A way in which arrays of several ranks may make up one value.

    Attributes:
        parts: Together all of it, each once; or several times all of it.
        is_whole: Each part is all of it.
        num_elements: Of the value.
        norm: Of its finite elements, the root of their sum of squares.
        total: Their sum.
        num_unbounded: Elements that are infinite or no number.
        is_block: It is what one rank has of a value of which others have the rest; the
            counts and sums are those of that alone.
        is_sum: What ranks hold was added up.
    """

    parts: tuple[np.ndarray, ...]
    is_whole: bool
    num_elements: int
    norm: float
    total: float
    num_unbounded: int
    is_block: bool = False
    is_sum: bool = False


def block_form(array: np.ndarray) -> Form:
    """What one rank has, of a value or of a block of one."""
    return replace(_form([array], is_whole=True), is_block=True)


def forms_of(
    held: Mapping[Holder, np.ndarray], axes: Sequence[Mapping[Holder, tuple]] = ()
) -> tuple[Form, ...]:
    """The ways in which what ranks hold may be one value.

    Args:
        held: The arrays, by who holds them.
        axes: For each mesh axis, the place of each holder on all the others: holders of
            one place may add up.
    """
    arrays = list(held.values())
    forms = list(_plain_forms(arrays))
    if len(arrays) < 2 or not is_inexact(arrays[0].dtype):
        return tuple(forms)
    for axis in axes:
        groups: dict[tuple, list[np.ndarray]] = {}
        for holder, array in held.items():
            groups.setdefault(axis.get(holder, (holder,)), []).append(array)
        # Ranks that hold the same hold all of it: replicas are no parts of a sum.
        if all(_may_add_up(group) for group in groups.values()):
            with np.errstate(invalid="ignore", over="ignore"):
                sums = [
                    np.sum(np.stack(group), axis=0, dtype=_wide(group[0].dtype))
                    for group in groups.values()
                ]
            forms += (replace(form, is_sum=True) for form in _plain_forms(sums))
    return tuple(forms)


def _may_add_up(group: Sequence[np.ndarray]) -> bool:
    is_even = len({array.shape for array in group}) == 1
    return is_even and len({array.tobytes() for array in group}) > 1


def _plain_forms(arrays: Sequence[np.ndarray]) -> Iterator[Form]:
    distinct: dict[tuple, np.ndarray] = {}
    for array in arrays:
        distinct.setdefault((array.shape, array.tobytes()), array)
    parts = tuple(distinct.values())
    if len({array.size for array in arrays}) == 1:
        yield _form(arrays if len(parts) > 1 else parts, is_whole=True)
    if len(parts) > 1:
        yield _form(parts, is_whole=False)


def _widened(array: np.ndarray) -> np.ndarray:
    """In the widest dtype of its kind; what is no number stays none."""
    with np.errstate(invalid="ignore"):
        return array.astype(_wide(array.dtype))


def _form(parts: Sequence[np.ndarray], *, is_whole: bool) -> Form:
    counted = parts[:1] if is_whole else parts
    squares = total = 0.0
    unbounded = 0
    for part in counted:
        wide = _widened(part).reshape(-1)
        finite = wide[np.isfinite(wide)]
        unbounded += wide.size - finite.size
        squares += float(np.sum(np.abs(finite) ** 2))
        total += float(np.sum(np.real(finite)))
    return Form(
        parts=tuple(parts),
        is_whole=is_whole,
        num_elements=sum(part.size for part in counted),
        norm=math.sqrt(squares),
        total=total,
        num_unbounded=unbounded,
    )


@functools.lru_cache
def is_inexact(dtype: np.dtype) -> bool:
    """Whether numbers of a dtype are rounded."""
    return dtype.kind in "fc" or dtype_named(dtype.name).epsilon is not None


def _wide(dtype: np.dtype) -> type:
    return np.complex128 if dtype.kind == "c" else np.float64


def forms_agree(candidate: Form, reference: Form, tolerance: float) -> bool:
    """Whether two forms are the same value.

    Args:
        candidate: Of any form.
        reference: Likewise.
        tolerance: Largest norm of the difference over that of the reference.
    """
    if candidate.is_block and candidate.num_elements < reference.num_elements:
        return reference.is_whole and fits(
            candidate.parts[0], reference.parts[0], tolerance
        )
    if not _may_agree(candidate, reference, tolerance):
        return False
    if reference.is_whole:
        whole = reference.parts[0]
        return all(fits(part, whole, tolerance) for part in candidate.parts)
    if candidate.is_whole:
        whole = candidate.parts[0]
        return all(fits(part, whole, tolerance) for part in reference.parts)
    return all(
        any(fits(part, other, tolerance) for other in reference.parts)
        for part in candidate.parts
    )


def sorted_elements(whole: Form) -> np.ndarray:
    """The finite elements of a value that may be looked up; of real numbers."""
    values = np.real(whole.parts[0]).astype(np.float64).reshape(-1)
    return np.sort(values[np.isfinite(values)])


def may_be_block(
    part: Form, whole: Form, elements: np.ndarray, tolerance: float
) -> bool:
    """Whether some elements of a block occur in a value at all.

    Args:
        part: The block.
        whole: The value.
        elements: Those of the value, sorted.
        tolerance: As in ``forms_agree``.
    """
    values = np.real(part.parts[0]).astype(np.float64).reshape(-1)
    some = values[:: max(values.size // _NUM_FIRST, 1)]
    some = some[np.isfinite(some)]
    if not some.size or not elements.size:
        return some.size == 0
    allowed = (tolerance + 1e-12) * whole.norm
    at = np.searchsorted(elements, some)
    below = np.abs(some - elements[np.maximum(at - 1, 0)])
    above = np.abs(elements[np.minimum(at, elements.size - 1)] - some)
    return bool((np.minimum(below, above) <= allowed).all())


def _may_agree(candidate: Form, reference: Form, tolerance: float) -> bool:
    """What must hold of sums over all elements, if they agree one by one."""
    count = reference.num_elements
    if candidate.num_elements != count:
        return False
    if candidate.num_unbounded != reference.num_unbounded:
        return False
    allowed = (tolerance + 1e-12) * max(reference.norm, 1e-300) * 1.01
    return abs(candidate.norm - reference.norm) <= allowed and abs(
        candidate.total - reference.total
    ) <= allowed * math.sqrt(max(count, 1))


def fits(part: np.ndarray, whole: np.ndarray, tolerance: float) -> bool:
    """Whether an array is a value, or one of the equal blocks that it falls into."""
    if whole.size == 0 or part.size == 0:
        return whole.size == part.size
    if whole.size % part.size:
        return False
    part, whole = np.squeeze(part), np.squeeze(whole)
    allowed = 0.0
    if is_inexact(part.dtype) or is_inexact(whole.dtype):
        wide = _widened(whole)
        bounded = wide[np.isfinite(wide)]
        allowed = tolerance * float(np.linalg.norm(bounded))
    begin = part.reshape(-1)[:_NUM_FIRST]
    for block in _blocks(part.shape, whole):
        first = np.array(block.flat[:_NUM_FIRST])
        if _may_be(begin, first, allowed) and is_close(
            part.reshape(-1), block.reshape(-1), tolerance
        ):
            return True
    return False


def _may_be(begin: np.ndarray, first: np.ndarray, allowed: float) -> bool:
    """Whether the first elements are near enough for all of them to agree."""
    one, other = begin.astype(np.complex128), first.astype(np.complex128)
    both = np.isfinite(one) & np.isfinite(other)
    difference = one[both] - other[both]
    return float(np.linalg.norm(difference)) <= allowed


def is_close(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    """Whether two arrays of one shape agree."""
    if not (is_inexact(one.dtype) or is_inexact(other.dtype)):
        return bool(np.array_equal(one, other))
    left, right = _widened(one), _widened(other)
    bounded = np.isfinite(right)
    if not np.array_equal(bounded, np.isfinite(left)):
        return False
    if not bounded.all():
        if not np.array_equal(left[~bounded], right[~bounded], equal_nan=True):
            return False
        left, right = left[bounded], right[bounded]
    return float(np.linalg.norm(left - right)) <= tolerance * float(
        np.linalg.norm(right)
    )


def _blocks(shape: tuple[int, ...], whole: np.ndarray) -> Iterator[np.ndarray]:
    """The arrays that may be a part of a value which one rank holds, of any shape.

    All of it; its equal blocks along one dim, or along two; and, where a dim was merged
    out of several, the blocks along an inner one. The dims may stand in another order,
    but for all of a value of the same shape: dims are not exchanged because they fit.
    Where dims were merged, too, only the first two, samples and positions, may be
    exchanged: what repeats each head would otherwise agree with what repeats all of
    them in a row.
    """
    ratio = whole.size // math.prod(shape)
    for order in _orders(shape, whole, ratio):
        turned = whole.transpose(order)
        if ratio == 1:
            yield turned
            continue
        for dim in range(turned.ndim):
            yield from _along(turned, dim, ratio)
        for outer, inner in itertools.combinations(range(turned.ndim), 2):
            for count in _divisors(ratio)[1:-1]:
                for block in _along(turned, outer, count, is_merged=False):
                    yield from _along(block, inner, ratio // count, is_merged=False)


def _along(
    whole: np.ndarray, dim: int, count: int, *, is_merged: bool = True
) -> Iterator[np.ndarray]:
    """Equal blocks along a dim, or along each inner one that it may be merged of."""
    size = whole.shape[dim]
    if size % count:
        return
    before, after = whole.shape[:dim], whole.shape[dim + 1 :]
    inner_sizes = _divisors(size) if is_merged else [size]
    if is_merged and size % (2 * count) == 0:
        # Positions that are dealt out from both ends, as under context parallelism.
        pieces = np.split(whole, 2 * count, axis=dim)
        for at in range(count):
            yield np.concatenate((pieces[at], pieces[-1 - at]), axis=dim)
    for inner in reversed(inner_sizes):
        if inner % count:
            continue
        split = whole.reshape(*before, size // inner, count, inner // count, *after)
        for at in range(count):
            yield (
                np.take(split, at, axis=dim + 1)
                if inner < size
                else whole[
                    (slice(None),) * dim
                    + (slice(at * (size // count), (at + 1) * (size // count)),)
                ]
            )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _orders(
    shape: tuple[int, ...], whole: np.ndarray, ratio: int
) -> Iterable[tuple[int, ...]]:
    """The orders in which the dims of a value may stand."""
    dims = tuple(range(whole.ndim))
    if ratio == 1 and shape == whole.shape:
        return [dims]
    if len(shape) != whole.ndim or whole.ndim > _MAX_DIMS:
        return dict.fromkeys((dims, (*reversed(dims[:2]), *dims[2:])))
    return [
        order
        for order in itertools.permutations(dims)
        if all(
            whole.shape[dim] % size == 0 for dim, size in zip(order, shape, strict=True)
        )
    ]
