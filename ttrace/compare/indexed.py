"""Lines up tensors whose rows recorded tensors name: row by row, by position.

Reads the indices of rows, and decides from them what is compared with what. Values are
read later, as the pairs are carried out (``ttrace.compare.rows``).

A row that only one run has counts as zeros in the other: its whole norm is error. So
what noise routes elsewhere is measured with the noise, and nothing else is tolerated.
"""

from dataclasses import dataclass

import numpy as np

from ttrace.compare.align import is_rank_filtered
from ttrace.compare.plan import Cover, Operand, TensorPlan, Term
from ttrace.compare.rows import (
    OneSidedRows,
    RowPair,
    Rows,
    common_rows,
    in_chunks,
    rows_without,
)
from ttrace.errors import LayoutError
from ttrace.ir.layout import Region
from ttrace.ir.row_index import PADDING, RowIndex
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import ShardRecord, TensorRecord
from ttrace.ir.trace_source import TraceSource


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMatch:
    """Which rows the two runs have.

    Attributes:
        num_common: Rows that both have.
        num_reference_only: Rows that only the reference has.
        num_candidate_only: Rows that only the candidate has.
        first_position: The first position that only one of them has, or None.
        num_uncovered: Elements that a run lacks of rows that it has in part.
        contradiction: Why the rows of some rank cannot be told, or empty.
    """

    num_common: int = 0
    num_reference_only: int = 0
    num_candidate_only: int = 0
    first_position: int | None = None
    num_uncovered: int = 0
    contradiction: str = ""

    @property
    def agree(self) -> bool:
        """Whether both runs have the same rows."""
        return not self.num_reference_only and not self.num_candidate_only


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchedRows:
    """What is to be compared of one tensor.

    Attributes:
        pairs: Candidate against reference; last the rows that only one of them has.
            These are left out where ranks were, or where rows of a rank are not known.
        reference_replicas: Copies within the reference.
        candidate_replicas: Copies within the candidate.
        rows: Which rows the two runs have.
    """

    pairs: tuple[RowPair | OneSidedRows, ...]
    reference_replicas: tuple[RowPair, ...]
    candidate_replicas: tuple[RowPair, ...]
    rows: RowMatch


def match_rows(
    plan: TensorPlan, reference: TraceSource, candidate: TraceSource
) -> MatchedRows:
    """Finds the rows that two runs have in common; reads no values.

    Args:
        plan: Of a tensor with an ``index_dim``.
        reference: The trusted run.
        candidate: The run under test.

    Raises:
        LayoutError: A rank has two rows of one position, or ranks whose arrays are to
            be summed have different rows.
        CorruptTraceError: The bytes of an index are not those that were written.
    """
    if plan.shapes_differ:
        return MatchedRows(
            pairs=(), reference_replicas=(), candidate_replicas=(), rows=RowMatch()
        )
    assert plan.index_dim is not None
    of_reference = _Side(plan.reference_cover, reference, plan.index_dim)
    of_candidate = _Side(plan.candidate_cover, candidate, plan.index_dim)
    pairs: list[RowPair | OneSidedRows] = [
        pair
        for piece in of_candidate.pieces
        for other in of_reference.pieces
        for pair in in_chunks(common_rows(other, piece))
    ]
    here, there = of_reference.positions(), of_candidate.positions()
    only_here = np.setdiff1d(here, there, assume_unique=True)
    only_there = np.setdiff1d(there, here, assume_unique=True)
    differing = [int(only[0]) for only in (only_here, only_there) if only.size]
    contradictions = of_reference.contradictions + of_candidate.contradictions
    is_complete = not (
        is_rank_filtered(reference.info)
        or is_rank_filtered(candidate.info)
        or plan.reference_cover.missing_partials
        or plan.candidate_cover.missing_partials
    )
    if is_complete and not contradictions:
        factor = _scale(plan.match.reference) / _scale(plan.match.candidate)
        for side, only in ((of_reference, only_here), (of_candidate, only_there)):
            pairs += [
                OneSidedRows(
                    rows=rows, in_candidate=side is of_candidate, factor=factor
                )
                for piece in side.pieces
                for rows in piece.take(np.isin(piece.positions, only)).chunks()
            ]
    return MatchedRows(
        pairs=tuple(pairs),
        reference_replicas=tuple(of_reference.replicas),
        candidate_replicas=tuple(of_candidate.replicas),
        rows=RowMatch(
            num_common=here.size - only_here.size,
            num_reference_only=only_here.size,
            num_candidate_only=only_there.size,
            first_position=min(differing, default=None),
            num_uncovered=of_reference.num_uncovered() + of_candidate.num_uncovered(),
            contradiction="; ".join(contradictions),
        ),
    )


def row_replicas(
    cover: Cover, trace: TraceSource, index_dim: int
) -> tuple[RowPair, ...]:
    """The copies of rows within one run.

    Raises:
        LayoutError: See ``match_rows``.
    """
    return tuple(_Side(cover, trace, index_dim).replicas)


def _scale(record: TensorRecord) -> float:
    return record.shards[0].scale


class _Side:
    """One run's rows of a tensor: disjoint pieces, and the copies of each."""

    def __init__(self, cover: Cover, trace: TraceSource, dim: int):
        self.pieces: list[Rows] = []
        self.replicas: list[RowPair] = []
        self.contradictions: list[str] = []
        for _, operand in cover.pieces:
            rows = _rows_of(operand, trace, dim)
            if isinstance(rows, str):
                self.contradictions.append(rows)
            else:
                self._add(rows)

    def positions(self) -> np.ndarray:
        """All positions that some rank has, ascending."""
        if not self.pieces:
            return np.empty(0, dtype=np.int64)
        return np.unique(np.concatenate([piece.positions for piece in self.pieces]))

    def num_uncovered(self) -> int:
        """Elements that no rank has, of rows that some rank has a part of."""
        if not self.pieces:
            return 0
        first = self.pieces[0]
        shape = list(first.operand.terms[0].shard.layout.global_shape)
        shape[first.dim] = self.positions().size
        return int(np.prod(shape)) - sum(piece.size for piece in self.pieces)

    def _add(self, rows: Rows) -> None:
        remaining = [rows]
        for piece in self.pieces:
            parts, remaining = remaining, []
            for part in parts:
                common = common_rows(piece, part)
                self.replicas += in_chunks(common)
                remaining += rows_without(part, common)
        self.pieces += [part for part in remaining if part.size]


def _rows_of(operand: Operand, trace: TraceSource, dim: int) -> Rows | str:
    """The rows of an operand, or why they cannot be told."""
    positions, local = [], []
    for term in operand.terms:
        numbers = _numbers(term, trace, dim)
        if isinstance(numbers, str):
            return numbers
        order = np.argsort(numbers, kind="stable")
        order = order[numbers[order] != PADDING]
        positions.append(numbers[order])
        local.append(order)
        _check_positions(positions[-1], term.shard, dim)
    for term, others in zip(operand.terms[1:], positions[1:], strict=True):
        if not np.array_equal(positions[0], others):
            raise LayoutError(
                "ranks whose arrays are to be summed hold different rows",
                where=term.shard.id,
                expected=f"the rows of rank {operand.rank}",
                got=f"other rows on rank {term.shard.rank}",
                remedy="correct the index that the frontend gives this tensor",
            )
    start, extent = list(operand.region.start), list(operand.region.extent)
    start[dim], extent[dim] = 0, 1
    return Rows(
        operand=operand,
        dim=dim,
        positions=positions[0],
        local=tuple(local),
        columns=Region(start=tuple(start), extent=tuple(extent)),
    )


def _numbers(term: Term, trace: TraceSource, dim: int) -> np.ndarray | str:
    """The position of every row of a block, or why it is not known."""
    region, index = term.block.region, term.shard.layout.index
    if index is None:
        return np.arange(region.start[dim], region.stop[dim], dtype=np.int64)
    parts = []
    record = trace.info.tensors.get(parse_tensor_id(index.id))
    shards = {shard.rank: shard for shard in record.shards} if record else {}
    for part in index.parts:
        if part.rank not in shards:
            return f"rank {part.rank} has not recorded which rows it sent"
        parts.append(_chosen(trace.load(shards[part.rank]), part.numbers, index))
    numbers = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    if numbers.size != region.extent[dim]:
        return (
            f"rank {term.shard.rank} has {region.extent[dim]} rows where "
            f"{numbers.size} were sent"
        )
    return numbers


def _chosen(
    numbers: np.ndarray, chosen: tuple[int, int] | None, index: RowIndex
) -> np.ndarray:
    if chosen is not None:
        numbers = numbers[(numbers >= chosen[0]) & (numbers < chosen[1])]
    return np.where(numbers == PADDING, PADDING, numbers - index.origin)


def _check_positions(positions: np.ndarray, shard: ShardRecord, dim: int) -> None:
    """Ascending positions are distinct and lie in the tensor."""
    length = shard.layout.global_shape[dim]
    if positions.size and not 0 <= positions[0] <= positions[-1] < length:
        raise LayoutError(
            "a row lies outside its tensor",
            where=f"{shard.id}, rank {shard.rank}",
            expected=f"positions 0..{length - 1}",
            got=f"{positions[0]}..{positions[-1]}",
            remedy="correct the index that the frontend gives this tensor",
        )
    repeated = positions[1:][positions[1:] == positions[:-1]]
    if repeated.size:
        raise LayoutError(
            "a rank has several rows of one position",
            where=f"{shard.id}, rank {shard.rank}",
            expected="every position at most once",
            got=f"position {repeated[0]} again",
            remedy="correct the index that the frontend gives this tensor",
        )
