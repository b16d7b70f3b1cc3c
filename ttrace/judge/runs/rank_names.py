"""Ranks of a run in words, with their place on a mesh."""

from collections.abc import Iterable

from ttrace.ir.trace import TraceInfo

_MAX_NAMED = 4


def ranks_text(ranks: Iterable[int]) -> str:
    """``rank 1``, ``ranks 1 and 3``, ``ranks 0, 1, 2, 3 and 4 more``.

    Args:
        ranks: At least one.
    """
    numbers = sorted(ranks)
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > _MAX_NAMED:
        named = ", ".join(map(str, numbers[:_MAX_NAMED]))
        return f"ranks {named} and {len(numbers) - _MAX_NAMED} more"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def placed_ranks_text(ranks: Iterable[int], mesh: str, info: TraceInfo) -> str:
    """The same with the place that only they have: ``ranks 2 and 3 (pp 1)``.

    Args:
        ranks: At least one.
        mesh: Name of a mesh.
        info: Their run.
    """
    chosen = set(ranks)
    coords = {
        rank.rank: each.coords
        for rank in info.ranks
        for each in rank.meshes
        if each.name == mesh
    }
    text = ranks_text(chosen)
    if not chosen <= coords.keys():
        return text
    first = coords[min(chosen)]
    common = {
        axis: coord
        for axis, coord in first.items()
        if all(coords[rank][axis] == coord for rank in chosen)
        and any(other[axis] != coord for other in coords.values())
    }
    there = {
        rank
        for rank, other in coords.items()
        if all(other[axis] == coord for axis, coord in common.items())
    }
    if not common or there != chosen:
        return text
    return f"{text} ({', '.join(f'{axis} {at}' for axis, at in common.items())})"
