"""Parts of a tensor along one of its dims, and what is compared within each.

A plan compares a tensor as a whole; ``part_pairs`` restricts its pairs to some indices
of a dim. No values are read here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ttrace.compare.operands import Operand, PairPlan
from ttrace.compare.plan import TensorPlan
from ttrace.compare.rows import RowPair, Rows, in_chunks
from ttrace.ir.layout import Region, ShardLayout

_MAX_NAMED = 4
"""Ranges that the text of a part names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some indices of one dim, with all of the other dims.

    Attributes:
        dim: The dim.
        ranges: Start and stop of each range of indices: ascending, apart, not empty.
    """

    dim: int
    ranges: tuple[tuple[int, int], ...]

    def __post_init__(self):
        ends = [0, *(index for pair in self.ranges for index in pair)]
        is_ascending = all(
            start < stop or (number == 0 and start == stop)
            for number, (start, stop) in enumerate(zip(ends, ends[1:], strict=False))
        )
        if self.dim < 0 or not self.ranges or not is_ascending:
            raise ValueError(f"not a part of a tensor: {self.dim}, {self.ranges}")

    def __str__(self) -> str:
        named = [
            str(start) if stop == start + 1 else f"{start}:{stop}"
            for start, stop in self.ranges[:_MAX_NAMED]
        ]
        more = len(self.ranges) - len(named)
        text = ", ".join(named) + (f" and {more} more ranges" if more else "")
        return f"{text} of dim {self.dim}"

    @property
    def indices(self) -> np.ndarray:
        """All its indices, ascending: int64."""
        return np.concatenate([np.arange(*bounds) for bounds in self.ranges])

    @classmethod
    def of_indices(cls, dim: int, indices: np.ndarray) -> "Part":
        """The part that has these indices: int64, ascending, each once."""
        starts = np.flatnonzero(np.diff(indices, prepend=-2) > 1)
        stops = np.append(starts[1:], indices.size) - 1
        return cls(
            dim=dim,
            ranges=tuple(
                (int(indices[start]), int(indices[stop]) + 1)
                for start, stop in zip(starts, stops, strict=True)
            ),
        )


def equal_blocks(dim: int, length: int, *, max_blocks: int) -> tuple[Part, ...]:
    """A dim cut into equal blocks: as many as divide it, none for a prime length."""
    num_blocks = max(
        (n for n in range(2, min(max_blocks, length) + 1) if length % n == 0),
        default=0,
    )
    size = length // num_blocks if num_blocks else 0
    return tuple(
        Part(dim=dim, ranges=((start * size, (start + 1) * size),))
        for start in range(num_blocks)
    )


def part_pairs(plan: TensorPlan, part: Part) -> list[RowPair]:
    """The pairs of a plan, restricted to a part; none where rows depend on data."""
    return list(_part_pairs(plan.pairs, part.dim, part.indices))


def _part_pairs(
    pairs: Iterable[object], dim: int, indices: np.ndarray
) -> Iterator[RowPair]:
    for pair in pairs:
        if not isinstance(pair, PairPlan):
            continue
        region = pair.region
        first, end = np.searchsorted(indices, (region.start[dim], region.stop[dim]))
        if first == end:
            continue
        held = indices[first:end]
        start, extent = list(region.start), list(region.extent)
        start[dim], extent[dim] = 0, 1
        columns = Region(start=tuple(start), extent=tuple(extent))
        yield from in_chunks(
            RowPair(
                reference=_rows(pair.reference, dim, held, columns),
                candidate=_rows(pair.candidate, dim, held, columns),
            )
        )


def _rows(operand: Operand, dim: int, indices: np.ndarray, columns: Region) -> Rows:
    return Rows(
        operand=operand,
        dim=dim,
        positions=indices,
        local=tuple(indices - term.block.region.start[dim] for term in operand.terms),
        columns=columns,
    )


def mask_of(layout: ShardLayout, part: Part) -> np.ndarray:
    """Which elements of a shard belong to a part: bool, of the shard's shape or less.

    Of a flat range none is known to.
    """
    if layout.is_flat:
        return np.zeros(layout.local_shape, bool)
    is_in = np.zeros(layout.local_shape[part.dim], bool)
    for block in layout.blocks:
        start, stop = block.region.start[part.dim], block.region.stop[part.dim]
        indices = part.indices
        own = indices[(indices >= start) & (indices < stop)]
        is_in[own - start + block.local_start[part.dim]] = True
    shape = [1] * len(layout.local_shape)
    shape[part.dim] = -1
    return is_in.reshape(shape)
