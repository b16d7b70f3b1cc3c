"""What each collective is defined to give: which parts of whose operands.

The definitions are those of ``torch.distributed``; NCCL and MPI have the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ttrace.compare.collectives.collective_calls import CollectiveCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A stretch of a flattened operand.

    Attributes:
        rank: Whose operand.
        position: Which of its operands.
        start: First element.
        stop: One past the last element.
    """

    rank: int
    position: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a flattened result, and what is reduced to it.

    Attributes:
        start: First element.
        stop: One past the last element.
        sources: Of its length each; one where nothing is reduced.
    """

    start: int
    stop: int
    sources: tuple[Source, ...]


Sizes = Mapping[tuple[int, int], int]
"""Elements of the operands, by rank and position."""


class NotDefined(Exception):
    """Operands or results are not such as the collective is defined on; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A result, and what it is to be made of.

    Attributes:
        call: The collective.
        place: Of the result's rank, in the group.
        position: Which of the rank's results.
        size: Its elements.
        sizes: Of the operands.
    """

    call: CollectiveCall
    place: int
    position: int
    size: int
    sizes: Sizes

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.call.group.ranks

    def whole(self, rank: int, position: int) -> Source:
        size = self.sizes.get((rank, position))
        if size is None:
            raise NotDefined(f"operands of rank {rank} were not recorded")
        return Source(rank=rank, position=position, start=0, stop=size)

    def one_of(self, rank: int, position: int, number: int, count: int) -> Source:
        """A part of an operand that is cut into as many equal ones as there are."""
        size = self.whole(rank, position).stop
        if size % count:
            raise NotDefined(f"{size} elements of rank {rank} are not {count} parts")
        length = size // count
        start = number * length
        return Source(rank=rank, position=position, start=start, stop=start + length)


def pieces_of(
    call: CollectiveCall, rank: int, position: int, size: int, sizes: Sizes
) -> tuple[Piece, ...]:
    """What a result is defined to be.

    Args:
        call: The collective.
        rank: Whose result.
        position: Which of its results.
        size: Its elements.
        sizes: Of the operands.

    Raises:
        NotDefined: It is not known, or the operands do not make up such a result.
    """
    name = call.part.name
    if name not in _DEFINITIONS:
        raise NotDefined(f"what {name} gives is not known here")
    if rank not in call.group.ranks:
        raise NotDefined(f"rank {rank} is not in the group")
    place = call.group.ranks.index(rank)
    asked = _Asked(call=call, place=place, position=position, size=size, sizes=sizes)
    pieces = _DEFINITIONS[name](asked)
    ends = pieces[-1].stop if pieces else 0
    is_even = all(
        source.stop - source.start == piece.stop - piece.start
        for piece in pieces
        for source in piece.sources
    )
    if ends != size or not is_even:
        raise NotDefined(
            f"its result has {size} elements on rank {rank}, and its operands do not "
            "make up so many"
        )
    return pieces


def _reduced(asked: _Asked) -> tuple[Piece, ...]:
    sources = tuple(asked.whole(rank, asked.position) for rank in asked.ranks)
    return (Piece(start=0, stop=asked.size, sources=sources),)


def _reduced_part(asked: _Asked) -> tuple[Piece, ...]:
    count = len(asked.ranks)
    sources = tuple(
        asked.one_of(rank, asked.position, asked.place, count) for rank in asked.ranks
    )
    return (Piece(start=0, stop=asked.size, sources=sources),)


def _reduced_of_list(asked: _Asked) -> tuple[Piece, ...]:
    position = asked.position * len(asked.ranks) + asked.place
    sources = tuple(asked.whole(rank, position) for rank in asked.ranks)
    return (Piece(start=0, stop=asked.size, sources=sources),)


def _of_root(asked: _Asked) -> tuple[Piece, ...]:
    root = asked.call.part.root
    assert root is not None
    return _one_after_the_other([asked.whole(root, asked.position)])


def _of_list_of_root(asked: _Asked) -> tuple[Piece, ...]:
    root = asked.call.part.root
    assert root is not None
    position = asked.position * len(asked.ranks) + asked.place
    return _one_after_the_other([asked.whole(root, position)])


def _gathered(asked: _Asked) -> tuple[Piece, ...]:
    return _one_after_the_other(
        [asked.whole(rank, asked.position) for rank in asked.ranks]
    )


def _one_gathered(asked: _Asked) -> tuple[Piece, ...]:
    position, place = divmod(asked.position, len(asked.ranks))
    return _one_after_the_other([asked.whole(asked.ranks[place], position)])


def _exchanged(asked: _Asked) -> tuple[Piece, ...]:
    rank = asked.ranks[asked.position]
    return _one_after_the_other([asked.whole(rank, asked.place)])


def _exchanged_parts(asked: _Asked) -> tuple[Piece, ...]:
    sources = []
    for rank in asked.ranks:
        share = asked.call.shares.get(rank)
        operand = None if share is None else share.operands.get(0)
        if operand is None or operand.collective is None:
            raise NotDefined(f"operands of rank {rank} were not recorded")
        splits = operand.collective.splits
        if not splits:
            sources.append(asked.one_of(rank, 0, asked.place, len(asked.ranks)))
            continue
        size = asked.whole(rank, 0).stop
        rows = sum(splits)
        per_row = size // rows if rows else 0
        start = sum(splits[: asked.place]) * per_row
        stop = start + splits[asked.place] * per_row
        sources.append(Source(rank=rank, position=0, start=start, stop=stop))
    return _one_after_the_other(sources)


def _one_after_the_other(sources: Sequence[Source]) -> tuple[Piece, ...]:
    pieces, start = [], 0
    for source in sources:
        stop = start + source.stop - source.start
        pieces.append(Piece(start=start, stop=stop, sources=(source,)))
        start = stop
    return tuple(pieces)


_DEFINITIONS: Mapping[str, Callable[[_Asked], tuple[Piece, ...]]] = {
    "all_reduce": _reduced,
    "reduce": _reduced,
    "reduce_scatter_tensor": _reduced_part,
    "reduce_scatter": _reduced_of_list,
    "broadcast": _of_root,
    "scatter": _of_list_of_root,
    "all_gather_into_tensor": _gathered,
    "all_gather": _one_gathered,
    "gather": _one_gathered,
    "all_to_all": _exchanged,
    "all_to_all_single": _exchanged_parts,
}
