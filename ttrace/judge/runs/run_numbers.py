"""Numbers of the runs that a factor may be: of micro-batches, and of ranks."""

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.align import is_rank_filtered
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import PER_MICROBATCH
from ttrace.ir.trace import TraceInfo

_LIKENESS = 1e-3
"""Relative, of a factor to the number that it is said to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNumber:
    """A number of one run, or of both.

    Attributes:
        value: At least 2.
        what: In words, e.g. ``the number of ranks along dp``.
        of_samples: Of micro-batches, or of ranks that have micro-batches of their own:
            what acts on losses and gradients, and on no output of a module.
    """

    value: int
    what: str
    of_samples: bool = False


def run_numbers(reference: TraceInfo, candidate: TraceInfo) -> tuple[RunNumber, ...]:
    """The numbers by which correct code sums or divides, of both runs.

    Linear in the number of recorded shards.

    Args:
        reference: The trusted run.
        candidate: The run under test, in its own micro-batches.
    """
    theirs, ours = (
        {number.what: number for number in _numbers(info)}
        for info in (reference, candidate)
    )
    found = []
    for what in dict.fromkeys((*ours, *theirs)):
        own, other = ours.get(what), theirs.get(what)
        if own is not None and other is not None and own.value == other.value:
            found.append(replace(own, of_samples=own.of_samples and other.of_samples))
            continue
        if own is not None:
            of = " of the candidate" if other is not None else ""
            found.append(replace(own, what=what + of))
        if other is not None:
            found.append(replace(other, what=f"{what} of the reference"))
    return tuple(number for number in found if number.value > 1)


def number_sentence(factor: float, numbers: Sequence[RunNumber]) -> str:
    """Which numbers of the runs a factor is, or is one over; empty if it is none.

    Args:
        factor: The candidate over the reference.
        numbers: Of the runs.
    """
    size = max(abs(factor), 1 / abs(factor)) if factor else 0.0
    fitting = [n for n in numbers if math.isclose(size, n.value, rel_tol=_LIKENESS)]
    if not fitting:
        return ""
    value, names = fitting[0].value, [number.what for number in fitting]
    if len(names) == 1:
        return f": {value} is {names[0]}; look at what is divided by it, or summed"
    return (
        f": {value} is {', '.join(names[:-1])} and {names[-1]}; look at what is "
        "divided by one of them, or summed"
    )


def _numbers(info: TraceInfo) -> Iterator[RunNumber]:
    of_steps: dict[int, set[int]] = {}
    of_ranks: dict[tuple[int, int], set[int]] = {}
    for id_, record in info.tensors.items():
        if id_.kind not in PER_MICROBATCH or id_.microbatch is None:
            continue
        of_steps.setdefault(id_.step, set()).add(id_.microbatch)
        for shard in record.shards:
            of_ranks.setdefault((id_.step, shard.rank), set()).add(id_.microbatch)
    sizes: dict[str, dict[int, str]] = {}
    for mesh in info.ranks[0].meshes:
        for axis, size in mesh.sizes.items():
            sizes.setdefault(axis, {}).setdefault(size, mesh.name)
    for axis, of_axis in sizes.items():
        for size, mesh in of_axis.items():
            if size == 1:
                continue
            of_mesh = f" of the mesh {mesh}" if len(of_axis) > 1 else ""
            yield RunNumber(
                value=size,
                what=f"the number of ranks along {axis}{of_mesh}",
                of_samples=_parts_samples(axis, mesh, info, of_ranks),
            )
    world_size = info.ranks[0].world_size
    if world_size > 1 and not any(world_size in of_axis for of_axis in sizes.values()):
        yield RunNumber(value=world_size, what="the number of ranks")
    capture = CaptureFilter.from_json(dict(info.ranks[0].capture))
    if capture.microbatches is not None:
        return  # how many a step has is not known
    of_step = _common(of_steps.values())
    of_rank = _common(of_ranks.values())
    if of_step is not None and not is_rank_filtered(info):
        what = "the number of micro-batches of a step"
        yield RunNumber(value=of_step, what=what, of_samples=True)
    if of_rank is not None and of_rank != of_step:
        what = "the number of micro-batches that each rank runs in a step"
        yield RunNumber(value=of_rank, what=what, of_samples=True)


def _parts_samples(
    axis: str,
    mesh_name: str,
    info: TraceInfo,
    of_ranks: Mapping[tuple[int, int], Collection[int]],
) -> bool:
    """Whether ranks along an axis have micro-batches of their own, no one in common."""
    coords: dict[int, Mapping[str, int]] = {}
    for rank in info.ranks:
        for mesh in rank.meshes:
            if mesh.name == mesh_name:
                coords[rank.rank] = mesh.coords
    groups: dict[Hashable, list[set[int]]] = {}
    for (step, rank), numbers in of_ranks.items():
        if rank in coords:
            others = {**coords[rank], axis: 0}
            key = (step, tuple(sorted(others.items())))
            groups.setdefault(key, []).append(set(numbers))
    several = [sets for sets in groups.values() if len(sets) > 1]
    return bool(several) and all(
        sum(map(len, sets)) == len(set().union(*sets)) for sets in several
    )


def _common(sets: Iterable[set[int]]) -> int | None:
    """How many each holds; None where there is none, or not all hold as many."""
    sizes = {len(one) for one in sets}
    return sizes.pop() if len(sizes) == 1 else None
