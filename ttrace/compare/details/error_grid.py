"""Sums over bins of the dims of a tensor, taken from parts of it in any order."""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from ttrace.compare.details.tensor_details import PROFILE_BINS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bins:
    """Which bins consecutive indices of a part lie in, along one dim.

    Attributes:
        labels: Numbers of the bins, ascending, each once.
        starts: First index of the part in each of them; ``starts[0]`` is 0.
        length: Indices of the part.
    """

    labels: np.ndarray
    starts: np.ndarray
    length: int

    @classmethod
    def of(cls, positions: np.ndarray, edges: np.ndarray) -> "Bins":
        """Of a part that has these indices of the tensor: int64, ascending."""
        numbers = np.searchsorted(edges[1:-1], positions, side="right")
        labels, starts = np.unique(numbers, return_index=True)
        return cls(labels=labels, starts=starts, length=len(positions))

    @property
    def sizes(self) -> np.ndarray:
        """Indices in each bin."""
        return np.diff(self.starts, append=self.length)

    def cut(self, start: int, stop: int) -> "Bins":
        """Of the indices [start, stop) of the part."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        end = int(np.searchsorted(self.starts, stop))
        return Bins(
            labels=self.labels[first:end],
            starts=np.maximum(self.starts[first:end] - start, 0),
            length=stop - start,
        )


def edges_of(length: int, max_bins: int = PROFILE_BINS) -> np.ndarray:
    """Where about equal bins of a dim begin, and its end: int64, ``[bins + 1]``.

    Those of half as many bins are among them, however long the dim is.
    """
    num_bins = min(length, max_bins)
    return np.arange(num_bins + 1, dtype=np.int64) * length // num_bins


class ErrorGrid:
    """Sums of squares and numbers of elements, by bins of every dim and pair of dims.

    Args:
        shape: Of the tensor.

    Attributes:
        dims: Dims that are longer than 1; only these have bins.
        edges: Of the bins, by dim.
        squares: By dim or pair of dims (ascending) the sums: float64, ``[bins]`` or
            ``[bins][bins]``.
        counts: Likewise the numbers of elements.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.dims = tuple(dim for dim, length in enumerate(shape) if length > 1)
        self.edges = {dim: edges_of(shape[dim]) for dim in self.dims}
        keys = [
            *((dim,) for dim in self.dims),
            *itertools.combinations(self.dims, 2),
        ]
        shapes = {key: [len(self.edges[dim]) - 1 for dim in key] for key in keys}
        self.squares = {key: np.zeros(shapes[key]) for key in keys}
        self.counts = {key: np.zeros(shapes[key]) for key in keys}

    def count(self, bins: dict[int, Bins], size: int) -> None:
        """Adds a part's elements to the counts.

        Args:
            bins: Of the part, by dim.
            size: Its number of elements, not 0.
        """
        for key, counts in self.counts.items():
            others = size // math.prod(bins[dim].length for dim in key)
            sizes = [bins[dim].sizes for dim in key]
            counts[_at(key, bins)] += (
                functools.reduce(np.multiply.outer, sizes) * others
            )

    def add(self, squares: np.ndarray, bins: dict[int, Bins]) -> None:
        """Adds a part's squares to the sums.

        Args:
            squares: float64, of the rank of the tensor.
            bins: Of the part, by dim.
        """
        for dim in reversed(self.dims):
            squares = _sums(squares, dim, bins[dim])
        others = tuple(d for d in range(squares.ndim) if d not in self.dims)
        squares = squares.sum(axis=others)  # of length 1
        for key in itertools.combinations(self.dims, 2):
            rest = tuple(n for n, dim in enumerate(self.dims) if dim not in key)
            self.squares[key][_at(key, bins)] += squares.sum(axis=rest)
        for number, dim in enumerate(self.dims):
            rest = tuple(n for n in range(len(self.dims)) if n != number)
            self.squares[dim,][_at((dim,), bins)] += squares.sum(axis=rest)

    def merge(self, other: "ErrorGrid") -> None:
        """Adds the sums of another grid of the same shape; not its counts."""
        for key, squares in other.squares.items():
            self.squares[key] += squares


def _at(key: tuple[int, ...], bins: dict[int, Bins]) -> tuple[np.ndarray, ...]:
    return np.ix_(*(bins[dim].labels for dim in key))


def _sums(values: np.ndarray, dim: int, bins: Bins) -> np.ndarray:
    if len(bins.labels) == bins.length:
        return values  # each index is a bin
    if dim == values.ndim - 1 or len(bins.labels) > 8:
        return np.add.reduceat(values, bins.starts, axis=dim)
    # Numpy adds whole rows much faster than it reduces along them.
    parts = np.split(values, bins.starts[1:], axis=dim)
    return np.concatenate([part.sum(axis=dim, keepdims=True) for part in parts], dim)


def coarsened(values: np.ndarray, edges: list[np.ndarray], dim: int) -> np.ndarray:
    """Sums of bins along a dim, of what had finer ones.

    Args:
        values: Sums of the finer bins, in ``dim``.
        edges: Of the finer and of the coarser bins; all of these are among those.
        dim: The dim.
    """
    finer, coarser = edges
    starts = np.searchsorted(finer, coarser[:-1])
    return np.add.reduceat(values, starts, axis=dim)
