"""Which blocks are compared with which: replicas, partials, gaps; no arrays."""

from collections.abc import Iterable
from dataclasses import dataclass

from ttrace.compare.align import Match
from ttrace.compare.covers import Cover, Covers, Pairings, Replica
from ttrace.compare.operands import PairPlan
from ttrace.compare.rows import OneSidedRows, RowMatch
from ttrace.errors import LayoutError
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo

Pair = Replica | OneSidedRows
"""Two operands of two runs, or rows that only one of them has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """Everything to compute for one matched tensor.

    Attributes:
        match: The two records.
        pairs: Candidate against reference; disjoint regions.
        reference_cover: How the reference's shards cover the tensor.
        candidate_cover: How the candidate's shards cover it.
        shapes_differ: The two logical shapes are not the same, so that nothing can
            be compared.
        ranks_missing_in_reference: Ranks that ought to have recorded it in the
            reference, and did not.
        ranks_missing_in_candidate: Likewise.
        index_dim: The dim whose rows recorded tensors name, in one run or both; None
            where all is known from blocks. Then there are no pairs and no replicas
            until ``ttrace.compare.indexed.plan_rows`` has read those tensors.
        rows: Which rows the two runs have, once that is known.
    """

    match: Match
    pairs: tuple[Pair, ...]
    reference_cover: Cover
    candidate_cover: Cover
    shapes_differ: bool
    ranks_missing_in_reference: tuple[int, ...] = ()
    ranks_missing_in_candidate: tuple[int, ...] = ()
    index_dim: int | None = None
    rows: RowMatch | None = None

    @property
    def id(self) -> TensorId:
        return self.match.id

    @property
    def is_whole(self) -> bool:
        """Whether nothing has to be read before it can be carried out."""
        return self.index_dim is None or self.rows is not None

    @property
    def size(self) -> int:
        """Number of elements to compare, those of replicas included."""
        replicas = (*self.reference_cover.replicas, *self.candidate_cover.replicas)
        return sum(pair.size for pair in (*self.pairs, *replicas))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparePlan:
    """All that a comparison of two traces computes.

    Attributes:
        tensors: One plan per matched tensor, in order of the dataflow.
    """

    tensors: tuple[TensorPlan, ...]


def plan_comparison(
    matches: Iterable[Match], reference: TraceInfo, candidate: TraceInfo
) -> ComparePlan:
    """Plans the comparison of all matched tensors, as far as nothing must be read.

    What depends on recorded indices of rows, ``ttrace.compare.indexed`` adds. Linear in
    shards and blocks.
    """
    runs, pairings = (Covers(reference), Covers(candidate)), Pairings()
    return ComparePlan(
        tensors=tuple(_plan_tensor(match, *runs, pairings) for match in matches)
    )


def _plan_tensor(
    match: Match, of_reference: Covers, of_candidate: Covers, pairings: Pairings
) -> TensorPlan:
    shapes_differ = match.reference.global_shape != match.candidate.global_shape
    index_dim = index_dim_of(match.reference, match.candidate)
    by_rows = index_dim is not None
    reference = of_reference.outline(match.reference, by_rows=by_rows)
    candidate = of_candidate.outline(match.candidate, by_rows=by_rows)
    reference_cover = reference.of(match.reference)
    candidate_cover = candidate.of(match.candidate)
    pairs: tuple[PairPlan, ...] = ()
    if not (shapes_differ or by_rows):
        reference_pieces, candidate_pieces = (
            reference_cover.pieces,
            candidate_cover.pieces,
        )
        pairs = tuple(
            [
                PairPlan(
                    region=overlap.region,
                    reference=reference_pieces[overlap.first][1],
                    candidate=candidate_pieces[overlap.second][1],
                )
                for overlap in pairings.of(reference, candidate)
            ]
        )
    return TensorPlan(
        match=match,
        pairs=pairs,
        reference_cover=reference_cover,
        candidate_cover=candidate_cover,
        shapes_differ=shapes_differ,
        ranks_missing_in_reference=reference.ranks_missing,
        ranks_missing_in_candidate=candidate.ranks_missing,
        index_dim=index_dim,
    )


def index_dim_of(*records: TensorRecord) -> int | None:
    """The dim whose rows recorded tensors name, or None if there is none.

    Raises:
        LayoutError: Several dims are meant.
    """
    dims = {
        index.dim
        for record in records
        for shard in record.shards
        if (index := shard.layout.index) is not None
    }
    if len(dims) > 1:
        raise LayoutError(
            "shards of one tensor are indexed along different dims",
            where=records[0].id,
            expected="one dim",
            got=f"dims {', '.join(map(str, sorted(dims)))}",
            remedy="correct the layout that the frontend gives this tensor",
        )
    return next(iter(dims), None)
