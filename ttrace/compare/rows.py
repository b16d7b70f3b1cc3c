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
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.views import block_view

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

    def global_index(self, flat: int) -> tuple[int, ...]:
        """Index in the logical tensor of an element, in C order."""
        shape = list(self.columns.extent)
        shape[self.dim] = self.positions.size
        offsets = np.unravel_index(flat, shape)
        index = [s + int(i) for s, i in zip(self.columns.start, offsets, strict=True)]
        index[self.dim] = int(self.positions[offsets[self.dim]])
        return tuple(index)

    def chunks(self) -> Iterator["Rows"]:
        """The same rows, in parts of a bounded number of elements."""
        num_rows = max(1, CHUNK_ELEMENTS // self.columns.size)
        for start in range(0, self.positions.size, num_rows):
            yield self.take(slice(start, start + num_rows))

    def read(self, trace: TraceSource) -> list[np.ndarray]:
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
        return self.reference.global_index(flat)

    def arrays(self, reference: TraceSource, candidate: TraceSource) -> ArrayPair:
        """Gathers the values."""
        return ArrayPair(
            reference=sum_terms(self.reference.read(reference)),
            candidate=sum_terms(self.candidate.read(candidate)),
            factor=self.factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OneSidedRows:
    """Rows that one run lacks, which count as zeros there.

    Attributes:
        rows: The rows of the run that has them.
        in_candidate: That run is the candidate.
        factor: Brings the candidate to the scale of the reference.
    """

    rows: Rows
    in_candidate: bool
    factor: float

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.rows.size

    @property
    def ranks(self) -> tuple[int | None, int | None]:
        """As of a ``RowPair``; None for the run that lacks the rows."""
        rank = self.rows.operand.rank
        return (rank, None) if self.in_candidate else (None, rank)

    def global_index(self, flat: int) -> tuple[int, ...]:
        """Index in the logical tensor of an element of the rows."""
        return self.rows.global_index(flat)

    def arrays(self, reference: TraceSource, candidate: TraceSource) -> ArrayPair:
        """Gathers the values, and zeros to set against them."""
        if self.in_candidate:
            values = sum_terms(self.rows.read(candidate))
            zeros = np.zeros_like(values)
            return ArrayPair(reference=zeros, candidate=values, factor=self.factor)
        values = sum_terms(self.rows.read(reference))
        return ArrayPair(reference=values, candidate=np.zeros_like(values))


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
    if pair is not None:
        chunks = zip(pair.reference.chunks(), pair.candidate.chunks(), strict=True)
        for reference, candidate in chunks:
            yield RowPair(reference=reference, candidate=candidate)


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
