"""The collectives of a run, put together from what each rank recorded; no arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

from ttrace.ir.collective import CollectivePart, Role
from ttrace.ir.kinds import Kind
from ttrace.ir.trace import ShardRecord, TraceInfo

_MAX_NAMED = 8
"""Ranks of a group that a sentence names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A process group.

    Attributes:
        name: As the run calls it.
        ranks: Its global ranks, in its order.
    """

    name: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankShare:
    """What one rank has of a collective.

    Attributes:
        part: What it asked for.
        operands: By position.
        results: By position.
    """

    part: CollectivePart
    operands: Mapping[int, ShardRecord]
    results: Mapping[int, ShardRecord]

    @property
    def first(self) -> ShardRecord:
        """A record that stands for all."""
        return next(iter((*self.operands.values(), *self.results.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCall:
    """One collective.

    Attributes:
        group: Whose ranks ran it.
        number: How many they ran before.
        shares: By rank, those that recorded some of it.
    """

    group: Group
    number: int
    shares: Mapping[int, RankShare]

    @property
    def share(self) -> RankShare:
        """That of the first rank which recorded some."""
        return next(iter(self.shares.values()))

    @property
    def part(self) -> CollectivePart:
        """What the first rank asked for."""
        return self.share.part


def collective_calls(info: TraceInfo) -> list[CollectiveCall]:
    """All collectives of a run, in the order in which the first ranks recorded them.

    Which collectives of two ranks are one follows from their numbers: the ranks of a
    group run its collectives in one order.
    """
    found: dict[tuple[Group, int], dict[int, list[ShardRecord]]] = {}
    groups: dict[tuple[str, tuple[int, ...]], Group] = {}
    for record in info.tensors.values():
        if record.id.kind is not Kind.COLLECTIVE:
            continue
        for shard in record.shards:
            part = shard.collective
            if part is None:
                continue
            key = (part.group_name, part.group)
            group = groups.get(key)
            if group is None:
                group = groups[key] = Group(name=part.group_name, ranks=part.group)
            by_rank = found.setdefault((group, part.number), {})
            by_rank.setdefault(shard.rank, []).append(shard)
    return [
        CollectiveCall(
            group=group,
            number=number,
            shares={rank: _share(by_rank[rank]) for rank in sorted(by_rank)},
        )
        for (group, number), by_rank in found.items()
    ]


def ranks_text(ranks: tuple[int, ...], info: TraceInfo) -> str:
    """``dp [0, 2]``: ranks of a group, with the axes of a mesh that they lie along.

    Args:
        ranks: Global ranks.
        info: Their run.
    """
    named = ", ".join(map(str, ranks[:_MAX_NAMED]))
    more = f", ... {ranks[-1]}" if len(ranks) > _MAX_NAMED else ""
    axes = axes_of(ranks, info)
    return f"{'+'.join(axes)} [{named}{more}]" if axes else f"ranks [{named}{more}]"


def axes_of(ranks: tuple[int, ...], info: TraceInfo) -> tuple[str, ...]:
    """The axes of a mesh that a group of ranks spans; empty where no mesh says.

    It must be all ranks that differ from the first one along these axes only.
    """
    members = frozenset(ranks)
    if not ranks or len(members) < 2:
        return ()
    by_rank = {one.rank: one for one in info.ranks}
    if not members <= by_rank.keys():
        return ()
    for mesh in by_rank[ranks[0]].meshes:
        places = [
            each.coords
            for rank in ranks
            for each in by_rank[rank].meshes
            if each.name == mesh.name
        ]
        if len(places) < len(ranks):
            continue
        axes = [a for a in mesh.sizes if len({place[a] for place in places}) > 1]
        distinct = {tuple(place[axis] for axis in axes) for place in places}
        size = 1
        for axis in axes:
            size *= mesh.sizes[axis]
        if axes and len(distinct) == size == len(ranks):
            return tuple(axes)
    return ()


def _share(shards: list[ShardRecord]) -> RankShare:
    parts = [(shard.collective, shard) for shard in shards]
    by_role: dict[Role, dict[int, ShardRecord]] = {role: {} for role in Role}
    for part, shard in parts:
        assert part is not None
        by_role[part.role][part.position] = shard
    first = parts[0][0]
    assert first is not None
    return RankShare(
        part=first, operands=by_role[Role.OPERAND], results=by_role[Role.RESULT]
    )
