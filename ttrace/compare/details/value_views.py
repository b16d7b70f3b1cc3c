"""What a person looks at of a tensor's values: figures, a slice, two side by side."""

import math
import re
from dataclasses import dataclass

import numpy as np

from ttrace.errors import UsageError

_SLICE = re.compile(r"(-?\d+)?(?::(-?\d+)?(?::(-?\d+)?)?)?")
"""An index, or the parts of a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFigures:
    """Figures of a tensor's values; those of size are of its finite elements.

    Attributes:
        num_elements: All of them.
        norm: Frobenius norm.
        mean: NaN where no element is finite, as are the next two.
        smallest: Least value.
        largest: Greatest value.
        num_zero: Elements that are zero.
        num_nan: Elements that are NaN.
        num_inf: Infinite elements.
    """

    num_elements: int
    norm: float
    mean: float
    smallest: float
    largest: float
    num_zero: int
    num_nan: int
    num_inf: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueDifference:
    """How far one tensor is from another, which stands for the reference.

    Attributes:
        rel_err: Frobenius norm of the difference over that of the reference.
        num_unequal: Elements that are not equal; no NaN equals another.
        num_elements: All of them.
        largest: Greatest absolute difference; NaN where an element is NaN.
        at: Index of it.
    """

    rel_err: float
    num_unequal: int
    num_elements: int
    largest: float
    at: tuple[int, ...]


def figures_of(values: np.ndarray) -> ValueFigures:
    """Figures of some values, computed in float64 (of complex ones, their sizes)."""
    wide = _wide(values)
    finite = wide[np.isfinite(wide)]
    some = finite.size > 0
    return ValueFigures(
        num_elements=wide.size,
        norm=float(np.sqrt(np.square(finite).sum())),
        mean=float(finite.mean()) if some else math.nan,
        smallest=float(finite.min()) if some else math.nan,
        largest=float(finite.max()) if some else math.nan,
        num_zero=int((wide == 0).sum()),
        num_nan=int(np.isnan(wide).sum()),
        num_inf=int(np.isinf(wide).sum()),
    )


def difference_of(reference: np.ndarray, other: np.ndarray) -> ValueDifference:
    """How far ``other`` is from ``reference``.

    Raises:
        UsageError: Their shapes differ, or they have no elements.
    """
    if reference.shape != other.shape or not reference.size:
        raise UsageError(
            "tensors whose elements cannot be compared one by one",
            expected="two tensors of one shape, with elements",
            got=f"{list(reference.shape)} and {list(other.shape)}",
            remedy="give ids of tensors of one shape",
        )
    if np.iscomplexobj(reference) or np.iscomplexobj(other):
        wide = reference.astype(np.complex128), other.astype(np.complex128)
    else:
        wide = reference.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        size = np.where(wide[0] == wide[1], 0.0, np.abs(wide[1] - wide[0]))
    at = int(np.argmax(size))  # NaN counts as the largest
    norm = float(np.linalg.norm(wide[0].ravel()))
    distance = float(np.linalg.norm(size.ravel()))
    if norm == 0:
        rel_err = 0.0 if distance == 0 else math.inf
    else:
        rel_err = distance / norm
    return ValueDifference(
        rel_err=rel_err,
        num_unequal=int((wide[0] != wide[1]).sum()),
        num_elements=size.size,
        largest=float(size.ravel()[at]),
        at=tuple(int(i) for i in np.unravel_index(at, size.shape)),
    )


def parse_slice(text: str) -> tuple[int | slice, ...]:
    """Reads ``0, :, 2:8:2``: for each dim an index or a range, from the first on.

    Raises:
        UsageError: It is something else.
    """
    return tuple(_parse_part(part.strip(), text) for part in text.split(","))


def _parse_part(part: str, text: str) -> int | slice:
    found = _SLICE.fullmatch(part)
    if not part or found is None or found[3] == "0":
        raise UsageError(
            "a slice that cannot be read",
            where=repr(text),
            expected="for each dim an index or a range, such as '0, :, 2:8'",
            got=repr(part),
            remedy="correct --slice",
        )
    numbers = [None if group is None else int(group) for group in found.groups()]
    if ":" not in part:
        assert numbers[0] is not None
        return numbers[0]
    return slice(*numbers)


def sliced(values: np.ndarray, parts: tuple[int | slice, ...]) -> np.ndarray:
    """The part of a tensor that a slice names.

    Raises:
        UsageError: It has fewer dims, or an index lies outside of one.
    """
    try:
        return values[parts]
    except IndexError as error:
        raise UsageError(
            "a slice that the tensor does not have",
            expected=f"indices into {list(values.shape)}",
            got=str(error),
            remedy="correct --slice, or give a pattern that other tensors match",
        ) from error


def _wide(values: np.ndarray) -> np.ndarray:
    if np.iscomplexobj(values):
        return np.abs(values).astype(np.float64)
    return values.astype(np.float64)
