"""Which blocks are compared with which: replicas, partials, gaps; no arrays."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ttrace.compare.align import Match
from ttrace.compare.missing_replicas import ranks_missing_replicas, uniform_groups
from ttrace.compare.operands import Operand, PairPlan, Term
from ttrace.compare.overlaps import arrange, find_overlaps
from ttrace.compare.rows import OneSidedRows, RowMatch, RowPair
from ttrace.errors import LayoutError
from ttrace.ir.layout import Region
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo

Replica = PairPlan | RowPair
"""Two operands of one run, over a region that was planned or rows that were found."""

Pair = Replica | OneSidedRows
"""Two operands of two runs, or rows that only one of them has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """How the shards of one run cover a logical tensor.

    Attributes:
        pieces: Disjoint regions, each with the operand that stands for it.
        replicas: Every further replica, against the piece that it repeats.
        num_uncovered: Elements that no rank holds.
        missing_partials: Ranks' coordinates make a sum of partials incomplete; those
            shards count as uncovered.
    """

    pieces: tuple[tuple[Region, Operand], ...]
    replicas: tuple[Replica, ...]
    num_uncovered: int
    missing_partials: bool


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

    What depends on recorded indices of rows, ``ttrace.compare.indexed`` adds.
    """
    of_reference, of_candidate = uniform_groups(reference), uniform_groups(candidate)
    return ComparePlan(
        tensors=tuple(
            replace(
                _plan_tensor(match, reference, candidate),
                ranks_missing_in_reference=ranks_missing_replicas(
                    match.reference, of_reference
                ),
                ranks_missing_in_candidate=ranks_missing_replicas(
                    match.candidate, of_candidate
                ),
            )
            for match in matches
        )
    )


def _plan_tensor(
    match: Match, reference: TraceInfo, candidate: TraceInfo
) -> TensorPlan:
    shapes_differ = match.reference.global_shape != match.candidate.global_shape
    index_dim = index_dim_of(match.reference, match.candidate)
    if index_dim is not None:
        return TensorPlan(
            match=match,
            pairs=(),
            reference_cover=row_cover(match.reference, reference),
            candidate_cover=row_cover(match.candidate, candidate),
            shapes_differ=shapes_differ,
            index_dim=index_dim,
        )
    reference_cover = cover(match.reference, reference)
    candidate_cover = cover(match.candidate, candidate)
    pairs: list[PairPlan] = []
    if not shapes_differ:
        of_reference, of_candidate = reference_cover.pieces, candidate_cover.pieces
        pairs = [
            PairPlan(
                region=overlap.region,
                reference=of_reference[overlap.first][1],
                candidate=of_candidate[overlap.second][1],
            )
            for overlap in find_overlaps(
                tuple(region for region, _ in of_reference),
                tuple(region for region, _ in of_candidate),
            )
        ]
    return TensorPlan(
        match=match,
        pairs=tuple(pairs),
        reference_cover=reference_cover,
        candidate_cover=candidate_cover,
        shapes_differ=shapes_differ,
    )


def cover(record: TensorRecord, info: TraceInfo) -> Cover:
    """Splits a tensor into disjoint pieces and the replicas of each.

    Shards that are partial over some axes are grouped with the ranks that differ from
    them on these axes only, and summed; whatever else overlaps is a replica. Of
    several replicas, the one with the lowest rank stands for the piece.
    """
    operands, missing = _operands(record, info)
    arrangement = arrange(tuple(operand.region for operand in operands))
    pieces = tuple((region, operands[owner]) for region, owner in arrangement.pieces)
    replicas = tuple(
        PairPlan(
            region=overlap.region,
            reference=operands[overlap.first],
            candidate=operands[overlap.second],
        )
        for overlap in arrangement.repeated
    )
    covered = sum(region.size for region, _ in pieces)
    return Cover(
        pieces=pieces,
        replicas=replicas,
        num_uncovered=math.prod(record.global_shape) - covered,
        missing_partials=missing,
    )


def index_dim_of(*records: TensorRecord) -> int | None:
    """The dim whose rows recorded tensors name, or None if there is none.

    Raises:
        LayoutError: Several dims are meant.
    """
    dims = {
        shard.layout.index.dim
        for record in records
        for shard in record.shards
        if shard.layout.index is not None
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


def row_cover(record: TensorRecord, info: TraceInfo) -> Cover:
    """The blocks of a tensor whose rows recorded tensors name.

    Which of them are replicas, and whether any are missing, is not known yet; along the
    indexed dim their regions count local rows.
    """
    operands, missing = _operands(record, info)
    return Cover(
        pieces=tuple((operand.region, operand) for operand in operands),
        replicas=(),
        num_uncovered=0,
        missing_partials=missing,
    )


def _operands(record: TensorRecord, info: TraceInfo) -> tuple[list[Operand], bool]:
    """The blocks of all shards, partial ones joined into one operand each."""
    meshes = {rank_info.rank: rank_info.mesh for rank_info in info.ranks}
    groups: dict[object, list[ShardRecord]] = {}
    for shard in record.shards:
        # A rank may hold parts from several of its micro-batches (``regroup``).
        key: object = (shard.rank, shard.id)
        layout = shard.layout
        if layout.partial_axes:
            coords = meshes[shard.rank](layout.mesh).coords
            kept = {
                axis: coord
                for axis, coord in coords.items()
                if axis not in layout.partial_axes
            }
            sums_over = (layout.mesh, layout.partial_axes, layout.num_partials)
            # Where not all places along the axes add up, others may hold other parts.
            regions = layout.num_partials and tuple(b.region for b in layout.blocks)
            key = (*sums_over, tuple(kept.items()), regions, shard.id)
        groups.setdefault(key, []).append(shard)
    operands = []
    missing = False
    for shards in groups.values():
        layout = shards[0].layout
        sizes = meshes[shards[0].rank](layout.mesh).sizes if layout.partial_axes else {}
        num_partials = layout.num_partials or math.prod(
            sizes[axis] for axis in layout.partial_axes
        )
        if len(shards) < num_partials:
            missing = True
            continue
        _check_partials(shards, num_partials)
        for blocks in zip(*(shard.layout.blocks for shard in shards), strict=True):
            if blocks[0].region.size:
                terms = zip(shards, blocks, strict=True)
                operands.append(
                    Operand(terms=tuple(Term(shard=s, block=b) for s, b in terms))
                )
    return operands, missing


def _check_partials(shards: list[ShardRecord], num_partials: int) -> None:
    """What is summed must be the same part of the tensor, each partial once."""
    first = shards[0]
    held = [block.region for block in first.layout.blocks]
    where = f"{first.id}, partial over {', '.join(first.layout.partial_axes)}"
    if len(shards) > num_partials:
        raise LayoutError(
            "several ranks have the same place on a mesh, so that a sum over it is "
            "not defined",
            where=where,
            expected=f"{num_partials} ranks",
            got=f"ranks {', '.join(str(shard.rank) for shard in shards)}",
            remedy="give the mesh the axis that tells these ranks apart",
        )
    for shard in shards[1:]:
        if [block.region for block in shard.layout.blocks] != held:
            raise LayoutError(
                "ranks whose arrays are to be summed hold different parts",
                where=where,
                expected=f"the blocks of rank {first.rank}",
                got=f"other blocks on rank {shard.rank}",
                remedy="correct the layout that the frontend gives this tensor",
            )
        if shard.scale != first.scale:
            raise LayoutError(
                "ranks whose arrays are to be summed have different scales",
                where=where,
                expected=f"scale {first.scale:g}, as on rank {first.rank}",
                got=f"scale {shard.scale:g} on rank {shard.rank}",
                remedy="correct the scale that the frontend gives this tensor",
            )
