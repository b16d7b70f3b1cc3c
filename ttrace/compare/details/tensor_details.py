"""What a closer look at a tensor that differs tells: how many elements, how far, where.

Plain values with a JSON form; ``ttrace.compare.details.closer_look`` makes them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAP_CELLS = 32
"""Cells of an error map along a dim, at most."""

PROFILE_BINS = 64
"""Bins of a profile, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UlpHistogram:
    """How many elements differ by how many units in the last place.

    Attributes:
        dtype: Whose units these are: the coarser of both sides' floating-point dtypes.
            Of integers and booleans, theirs: the unit is 1.
        counts: Elements by distance, in bins that double: 0, 1, 2-3, 4-7, ... Bin
            ``i`` from 1 on is that of distances of ``i`` binary digits, from
            ``2**(i-1)`` to ``2**i - 1``. Empty bins at the end are left out.
        num_not_comparable: Elements with a NaN, or an infinity that the other side has
            not.
    """

    dtype: str
    counts: tuple[int, ...]
    num_not_comparable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The error along one dim, all others taken together.

    Attributes:
        dim: The dim.
        edges: Where its bins begin, ascending, and the length of the dim.
        errors: Per bin the root mean square of the difference in it, over that of the
            whole reference. Infinite where it holds an element that is not finite on
            one side and differs, or where the reference is zero; NaN where nothing
            was compared. To three digits.
    """

    dim: int
    edges: tuple[int, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMap:
    """A thumbnail of the error over the two dims along which it varies most.

    Attributes:
        dims: These dims, ascending; all others are taken together.
        edges: Of the cells along either dim, as in a ``Profile``.
        errors: ``[cells of dims[0]][cells of dims[1]]``, as in a ``Profile``.
    """

    dims: tuple[int, int]
    edges: tuple[tuple[int, ...], tuple[int, ...]]
    errors: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBorders:
    """Where the shards of different ranks meet along a dim.

    Attributes:
        side: ``reference`` or ``candidate``.
        dim: The dim.
        positions: Where in the logical tensor a shard begins, and another one lies
            before it: ascending, the start of the dim is none.
    """

    side: str
    dim: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPlace:
    """A part of a tensor that has nearly all of its error.

    Attributes:
        dim: The dim that it is a part of.
        ranges: Start and stop of each range of indices; ends are those of bins.
        share: Of the squared error of the tensor, that lies there.
        ranks: Ranks of the candidate that hold some of it, of several that hold
            different parts of the dim; empty where all do.
    """

    dim: int
    ranges: tuple[tuple[int, int], ...]
    share: float
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDetails:
    """What a closer look at one tensor tells.

    Attributes:
        ulp_histogram: Elements by how far they are off, in units in the last place.
        num_beyond: Elements whose absolute difference exceeds the tolerance times the
            root mean square of the reference, and those that are not finite on one
            side and differ. Nearly all where the tensor is wrong as a whole, few
            where an element or a row of it is.
        error_map: Where in the tensor it differs; None unless two of its dims are
            longer than 1.
        profiles: The same along each dim that is longer than 1.
        borders: Of the shards, for each side and each of these dims that has any.
        place: Where nearly all of the error lies; None where it is spread.
    """

    ulp_histogram: UlpHistogram
    num_beyond: int
    error_map: ErrorMap | None = None
    profiles: tuple[Profile, ...] = ()
    borders: tuple[ShardBorders, ...] = ()
    place: ErrorPlace | None = None

    def to_json(self) -> dict:
        """As JSON values, but for numbers that are not finite; None is left out."""
        return {name: item for name, item in asdict(self).items() if item is not None}

    @classmethod
    def from_json(cls, value: Mapping) -> "TensorDetails":
        """Reads what ``to_json`` made.

        Raises:
            LookupError, TypeError: It is not what ``to_json`` makes.
        """
        error_map, place = value.get("error_map"), value.get("place")
        return cls(
            ulp_histogram=UlpHistogram(**_with_tuples(value["ulp_histogram"])),
            num_beyond=value["num_beyond"],
            error_map=ErrorMap(**_with_tuples(error_map)) if error_map else None,
            profiles=tuple(Profile(**_with_tuples(p)) for p in value["profiles"]),
            borders=tuple(ShardBorders(**_with_tuples(b)) for b in value["borders"]),
            place=ErrorPlace(**_with_tuples(place)) if place else None,
        )


def _with_tuples(value: Mapping) -> dict[str, Any]:
    return {name: _as_tuple(item) for name, item in value.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value
