"""What is set against what: blocks of shards, and two of them over one region."""

from dataclasses import dataclass

from ttrace.ir.layout import Block, Region
from ttrace.ir.trace import ShardRecord


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

    @property
    def scale(self) -> float:
        """Known factor of its values over the mathematical ones."""
        return self.terms[0].shard.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPlan:
    """Two operands to compare over one region that both hold.

    Attributes:
        region: The region, within that of either operand.
        reference: The side in the denominator. Of two replicas: the one of the
            lowest rank.
        candidate: The other side.
    """

    region: Region
    reference: Operand
    candidate: Operand

    @property
    def factor(self) -> float:
        """Brings the candidate to the scale of the reference."""
        return self.reference.scale / self.candidate.scale

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.region.size

    @property
    def ranks(self) -> tuple[int, int]:
        """First rank of the candidate's side, and of the reference's."""
        return self.candidate.rank, self.reference.rank

    def global_index(self, flat: int) -> tuple[int, ...]:
        """Index in the logical tensor of an element of the region, in C order."""
        index = []
        for start, extent in zip(
            reversed(self.region.start), reversed(self.region.extent), strict=True
        ):
            flat, offset = divmod(flat, extent)
            index.append(start + offset)
        return tuple(reversed(index))
