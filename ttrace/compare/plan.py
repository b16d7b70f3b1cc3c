"""Which blocks are compared with which: replicas, pending sums, gaps; no arrays."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ttrace.compare.align import Match
from ttrace.ir.layout import Block, Region
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One block of one shard.

    Attributes:
        shard: The shard that holds it.
        block: The block.
    """

    shard: ShardRecord
    block: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """One side of a comparison: a part of a region of the logical tensor.

    Attributes:
        terms: Blocks of the same region; more than one are summed (partials).
    """

    terms: tuple[Term, ...]

    @property
    def rank(self) -> int:
        """The first rank that holds it."""
        return self.terms[0].shard.rank

    @property
    def region(self) -> Region:
        return self.terms[0].block.region


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPlan:
    """Two operands to compare over one region that both hold.

    Attributes:
        region: The region, within that of either operand.
        reference: The side in the denominator. Of two replicas: the one of the
            lowest rank.
        candidate: The other side.
        factor: Multiplies the candidate (see ``ShardRecord.scale``).
    """

    region: Region
    reference: Operand
    candidate: Operand
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """How the shards of one run cover a logical tensor.

    Attributes:
        pieces: Disjoint regions, each with the operand that stands for it.
        replicas: Every further copy, against the piece that it repeats.
        num_uncovered: Elements that no rank holds.
        missing_partials: Ranks' coordinates make a pending sum incomplete; those
            shards count as uncovered.
    """

    pieces: tuple[tuple[Region, Operand], ...]
    replicas: tuple[PairPlan, ...]
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
    """

    match: Match
    pairs: tuple[PairPlan, ...]
    reference_cover: Cover
    candidate_cover: Cover
    shapes_differ: bool

    @property
    def id(self) -> TensorId:
        return self.match.id


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
    """Plans the comparison of all matched tensors."""
    return ComparePlan(
        tensors=tuple(_plan_tensor(match, reference, candidate) for match in matches)
    )


def _plan_tensor(
    match: Match, reference: TraceInfo, candidate: TraceInfo
) -> TensorPlan:
    reference_cover = cover(match.reference, reference)
    candidate_cover = cover(match.candidate, candidate)
    shapes_differ = match.reference.global_shape != match.candidate.global_shape
    pairs = []
    if not shapes_differ:
        factor = match.reference.shards[0].scale / match.candidate.shards[0].scale
        for candidate_region, candidate_operand in candidate_cover.pieces:
            for reference_region, reference_operand in reference_cover.pieces:
                common = reference_region.intersect(candidate_region)
                if common is not None:
                    pairs.append(
                        PairPlan(
                            region=common,
                            reference=reference_operand,
                            candidate=candidate_operand,
                            factor=factor,
                        )
                    )
    return TensorPlan(
        match=match,
        pairs=tuple(pairs),
        reference_cover=reference_cover,
        candidate_cover=candidate_cover,
        shapes_differ=shapes_differ,
    )


def cover(record: TensorRecord, info: TraceInfo) -> Cover:
    """Splits a tensor into disjoint pieces and the copies of each.

    Shards that are partial over some axes are grouped with the ranks that differ from
    them on these axes only, and summed; whatever else overlaps is a replica. Of
    several copies, the one with the lowest rank stands for the piece.
    """
    operands, missing = _operands(record, info)
    pieces: list[tuple[Region, Operand]] = []
    replicas: list[PairPlan] = []
    for operand in operands:
        remaining = [operand.region]
        for region, owner in pieces:
            uncovered: list[Region] = []
            for part in remaining:
                common = part.intersect(region)
                if common is None:
                    uncovered.append(part)
                    continue
                replicas.append(
                    PairPlan(region=common, reference=owner, candidate=operand)
                )
                uncovered += part.subtract(common)
            remaining = uncovered
            if not remaining:
                break
        pieces += [(part, operand) for part in remaining]
    covered = sum(region.size for region, _ in pieces)
    return Cover(
        pieces=tuple(pieces),
        replicas=tuple(replicas),
        num_uncovered=math.prod(record.global_shape) - covered,
        missing_partials=missing,
    )


def _operands(record: TensorRecord, info: TraceInfo) -> tuple[list[Operand], bool]:
    """The blocks of all shards, partial ones joined into one operand each."""
    infos = {rank_info.rank: rank_info for rank_info in info.ranks}
    groups: dict[object, list[ShardRecord]] = {}
    missing = False
    for shard in record.shards:
        if not shard.layout.partial_axes:
            groups[shard.rank] = [shard]
            continue
        mesh = infos[shard.rank].mesh(shard.layout.mesh)
        kept = tuple(
            (axis, coord)
            for axis, coord in mesh.coords.items()
            if axis not in shard.layout.partial_axes
        )
        groups.setdefault((shard.layout.mesh, kept), []).append(shard)
    operands = []
    for shards in groups.values():
        layout = shards[0].layout
        if layout.partial_axes:
            sizes = infos[shards[0].rank].mesh(layout.mesh).sizes
            expected = math.prod(sizes[axis] for axis in layout.partial_axes)
            if len(shards) != expected:
                missing = True
                continue
        for index in range(len(layout.blocks)):
            if layout.blocks[index].region.size:
                terms = tuple(
                    Term(shard=shard, block=shard.layout.blocks[index])
                    for shard in shards
                )
                operands.append(Operand(terms=terms))
    return operands, missing
