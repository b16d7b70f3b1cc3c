"""How the shards of a run cover its tensors: pieces, replicas, partials, gaps.

Many tensors of a run are held alike. What follows from that (which blocks belong
together, which repeat others) is found once for all of them, as an outline in numbers;
each tensor's own shards are only filled in.
"""

import functools
import math
from dataclasses import dataclass

from ttrace.compare.missing_replicas import (
    UniformGroups,
    ranks_missing_replicas,
    uniform_groups,
)
from ttrace.compare.operands import Operand, PairPlan, Term
from ttrace.compare.overlaps import Overlap, arrange, find_overlaps
from ttrace.compare.rows import RowPair
from ttrace.errors import LayoutError
from ttrace.ir.layout import Region, ShardLayout
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo

Replica = PairPlan | RowPair
"""Two operands of one run, over a region that was planned or rows that were found."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outline:
    """A cover without the shards of a certain tensor.

    Attributes:
        operands: The blocks that make up each operand: number of the shard in its
            tensor, number of the block in its shard.
        pieces: Disjoint regions, each with the number of the operand that stands for
            it; None where the rows of the blocks depend on data.
        replicas: What operands cover once more, by number.
        num_uncovered: As in ``Cover``.
        missing_partials: As in ``Cover``.
        ranks_missing: Ranks that ought to have recorded a tensor, and did not.
        layouts: Of the shards; kept, as outlines are looked up by their identity.
    """

    operands: tuple[tuple[tuple[int, int], ...], ...]
    pieces: tuple[tuple[Region, int], ...] | None
    replicas: tuple[Overlap, ...] = ()
    num_uncovered: int = 0
    missing_partials: bool = False
    ranks_missing: tuple[int, ...] = ()
    layouts: tuple[ShardLayout, ...] = ()

    def of(self, record: TensorRecord) -> Cover:
        """The cover of a tensor that is held like that."""
        shards = record.shards
        # Lists, as there are very many of these, and generators take twice as long.
        operands = [
            Operand(
                terms=tuple(
                    [
                        Term(shard=shards[i], block=shards[i].layout.blocks[j])
                        for i, j in terms
                    ]
                )
            )
            for terms in self.operands
        ]
        if self.pieces is None:
            pieces = [(operand.region, operand) for operand in operands]
        else:
            pieces = [(region, operands[owner]) for region, owner in self.pieces]
        return Cover(
            pieces=tuple(pieces),
            replicas=tuple(
                [
                    PairPlan(
                        region=overlap.region,
                        reference=operands[overlap.first],
                        candidate=operands[overlap.second],
                    )
                    for overlap in self.replicas
                ]
            ),
            num_uncovered=self.num_uncovered,
            missing_partials=self.missing_partials,
        )


class Covers:
    """The covers of the tensors of one run."""

    def __init__(self, info: TraceInfo):
        self._info = info
        self._meshes = {rank_info.rank: rank_info.mesh for rank_info in info.ranks}
        self._outlines: dict[object, Outline] = {}

    def outline(self, record: TensorRecord, *, by_rows: bool = False) -> Outline:
        """How a tensor is held.

        Shards that are partial over some axes are grouped with the ranks that differ
        from them on these axes only, and summed; whatever else overlaps is a replica.
        Of several replicas, the one with the lowest rank stands for the piece.

        Args:
            record: The tensor.
            by_rows: Recorded tensors name rows of it. Which blocks are replicas, and
                whether any are missing, is not known yet then; along the indexed dim
                their regions count local rows.

        Raises:
            LayoutError: Partials that do not make up a sum.
        """
        shards, id_ = record.shards, record.id
        if any([shard.id is not id_ and shard.id != id_ for shard in shards]):
            # A rank may hold parts from several of its micro-batches (``regroup``).
            return self._outlined(record, by_rows)
        key = (
            by_rows,
            id_.microbatch is None,
            tuple([(shard.rank, id(shard.layout), shard.scale) for shard in shards]),
        )
        found = self._outlines.get(key)
        if found is None:
            found = self._outlines[key] = self._outlined(record, by_rows)
        return found

    @functools.cached_property
    def _uniform_groups(self) -> UniformGroups:
        return uniform_groups(self._info)

    def _outlined(self, record: TensorRecord, by_rows: bool) -> Outline:
        operands, missing = self._operands(record)
        ranks_missing = ranks_missing_replicas(record, self._uniform_groups)
        layouts = tuple(shard.layout for shard in record.shards)
        if by_rows:
            return Outline(
                operands=operands,
                pieces=None,
                missing_partials=missing,
                ranks_missing=ranks_missing,
                layouts=layouts,
            )
        arrangement = arrange(
            tuple(layouts[i].blocks[j].region for (i, j), *_ in operands)
        )
        covered = sum(region.size for region, _ in arrangement.pieces)
        return Outline(
            operands=operands,
            pieces=arrangement.pieces,
            replicas=arrangement.repeated,
            num_uncovered=math.prod(record.global_shape) - covered,
            missing_partials=missing,
            ranks_missing=ranks_missing,
            layouts=layouts,
        )

    def _operands(
        self, record: TensorRecord
    ) -> tuple[tuple[tuple[tuple[int, int], ...], ...], bool]:
        """The blocks of all shards, partial ones joined into one operand each."""
        groups: dict[object, list[int]] = {}
        for number, shard in enumerate(record.shards):
            groups.setdefault(self._group(shard), []).append(number)
        operands = []
        missing = False
        for numbers in groups.values():
            shards = [record.shards[number] for number in numbers]
            first = shards[0].layout
            num_partials = self._num_partials(shards[0])
            if len(shards) < num_partials:
                missing = True
                continue
            _check_partials(shards, num_partials)
            operands += (
                tuple((number, at) for number in numbers)
                for at, block in enumerate(first.blocks)
                if block.region.size
            )
        return tuple(operands), missing

    def _group(self, shard: ShardRecord) -> object:
        """Equal for shards that are summed."""
        layout = shard.layout
        if not layout.partial_axes:
            return shard.rank, shard.id
        coords = self._meshes[shard.rank](layout.mesh).coords
        kept = tuple(
            (axis, coord)
            for axis, coord in coords.items()
            if axis not in layout.partial_axes
        )
        # Where not all places along the axes add up, others may hold other parts.
        regions = layout.num_partials and tuple(b.region for b in layout.blocks)
        sums_over = (layout.mesh, layout.partial_axes, layout.num_partials)
        return (*sums_over, kept, regions, shard.id)

    def _num_partials(self, shard: ShardRecord) -> int:
        layout = shard.layout
        if not layout.partial_axes:
            return 1
        sizes = self._meshes[shard.rank](layout.mesh).sizes
        return layout.num_partials or math.prod(
            sizes[axis] for axis in layout.partial_axes
        )


class Pairings:
    """What pieces of two runs have in common, found once for tensors held alike."""

    def __init__(self):
        self._found: dict[tuple[int, int], tuple[Overlap, ...]] = {}
        self._outlines: list[Outline] = []  # kept, as they are known by identity

    def of(self, reference: Outline, candidate: Outline) -> tuple[Overlap, ...]:
        """The overlaps of the pieces of two outlines, by number of the piece."""
        key = (id(reference), id(candidate))
        if key not in self._found:
            assert reference.pieces is not None and candidate.pieces is not None
            self._outlines += (reference, candidate)
            self._found[key] = find_overlaps(
                tuple(region for region, _ in reference.pieces),
                tuple(region for region, _ in candidate.pieces),
            )
        return self._found[key]


def cover(record: TensorRecord, info: TraceInfo) -> Cover:
    """Splits one tensor into disjoint pieces and the replicas of each."""
    return Covers(info).outline(record).of(record)


def _check_partials(shards: list[ShardRecord], num_partials: int) -> None:
    """What is summed must be the same part of the tensor, each partial once."""
    if len(shards) == num_partials == 1:
        return
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
