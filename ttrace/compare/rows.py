"""Rows of a tensor by position, and pairs of them; values are read in chunks.

Which rows a run has, and what is compared with what, is found in
``ttrace.compare.indexed``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.compare.backend import ArrayPair
from ttrace.compare.plan import Operand, Term
from ttrace.ir.layout import Region
from ttrace.ir.views import block_view
from ttrace.store.reader import Trace

CHUNK_ELEMENTS = 2**22
"""Elements that one pair gathers at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows of an operand, in ascending order of their positions.

    Attributes:
        operand: The blocks that hold them.
        dim: The dim of the rows.
        positions: int64, ``[rows]``, ascending, each once.
        local: For each term of the operand int64, ``[rows]``: the row of its block.
        columns: What they hold of the other dims; in ``dim`` of extent 1.
    """

    operand: Operand
    dim: int
    positions: np.ndarray
    local: tuple[np.ndarray, ...]
    columns: Region

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.positions.size * self.columns.size

    def take(self, chosen: np.ndarray | slice, columns: Region | None = None) -> "Rows":
        """Some of the rows, and of these some columns."""
        return replace(
            self,
            positions=self.positions[chosen],
            local=tuple(rows[chosen] for rows in self.local),
            columns=columns or self.columns,
        )

    def read(self, trace: Trace) -> list[np.ndarray]:
        """The values of every term, ``columns.extent`` with the rows in ``dim``."""
        return [
            self._gather(trace.load(term.shard), term, rows)
            for term, rows in zip(self.operand.terms, self.local, strict=True)
        ]

    def _gather(self, local: np.ndarray, term: Term, rows: np.ndarray) -> np.ndarray:
        held = term.block.region
        start, extent = list(self.columns.start), list(self.columns.extent)
        start[self.dim], extent[self.dim] = held.start[self.dim], held.extent[self.dim]
        region = Region(start=tuple(start), extent=tuple(extent))
        view = block_view(local, term.shard.layout, term.block, region)
        return np.take(view, rows, axis=self.dim)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowPair:
    """The same rows and columns of two operands; the counterpart of a ``PairPlan``.

    Attributes:
        reference: The side in the denominator. Of two replicas: the first one.
        candidate: The other side, of the same positions.
    """

    reference: Rows
    candidate: Rows

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.reference.size

    @property
    def ranks(self) -> tuple[int, int]:
        """First rank of the candidate's side, and of the reference's."""
        return self.candidate.operand.rank, self.reference.operand.rank

    @property
    def factor(self) -> float:
        """Brings the candidate to the scale of the reference."""
        return self.reference.operand.scale / self.candidate.operand.scale

    def global_index(self, flat: int) -> tuple[int, ...]:
        """Index in the logical tensor of an element of the pair."""
        rows = self.reference
        shape = list(rows.columns.extent)
        shape[rows.dim] = rows.positions.size
        index = [int(i) for i in np.unravel_index(flat, shape)]
        row = index[rows.dim]
        index = [s + i for s, i in zip(rows.columns.start, index, strict=True)]
        index[rows.dim] = int(rows.positions[row])
        return tuple(index)


def common_rows(reference: Rows, candidate: Rows) -> RowPair | None:
    """What two lists of rows have in common, or None."""
    columns = reference.columns.intersect(candidate.columns)
    if columns is None:
        return None
    _, here, there = np.intersect1d(
        reference.positions, candidate.positions, True, return_indices=True
    )
    if not here.size:
        return None
    return RowPair(
        reference=reference.take(here, columns),
        candidate=candidate.take(there, columns),
    )


def rows_without(rows: Rows, common: RowPair | None) -> list[Rows]:
    """The rows and columns that are not in a pair of which they are the candidate."""
    if common is None:
        return [rows]
    taken = common.candidate
    is_taken = np.isin(rows.positions, taken.positions, assume_unique=True)
    return [
        rows.take(np.flatnonzero(~is_taken)),
        *(
            taken.take(slice(None), rest)
            for rest in rows.columns.subtract(taken.columns)
        ),
    ]


def in_chunks(pair: RowPair | None) -> Iterator[RowPair]:
    """Cuts a pair into such that gather a bounded number of elements."""
    if pair is None:
        return
    num_rows = max(1, CHUNK_ELEMENTS // pair.reference.columns.size)
    for start in range(0, pair.reference.positions.size, num_rows):
        chosen = slice(start, start + num_rows)
        yield RowPair(
            reference=pair.reference.take(chosen), candidate=pair.candidate.take(chosen)
        )


def read_rows(pair: RowPair, reference: Trace, candidate: Trace) -> ArrayPair:
    """Gathers the values of a pair."""
    return ArrayPair(
        reference=sum_terms(pair.reference.read(reference)),
        candidate=sum_terms(pair.candidate.read(candidate)),
        factor=pair.factor,
    )


def sum_terms(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Addends of a pending sum together; a single one as it is.

    In the widest dtype, so that the sum adds no rounding that a verdict could see.
    """
    if len(arrays) == 1:
        return arrays[0]
    wide = np.float64
    if all(array.dtype.kind in "iub" for array in arrays):
        wide = np.uint64 if arrays[0].dtype.kind == "u" else np.int64
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinities are counted
        return np.add.reduce([array.astype(wide) for array in arrays])
