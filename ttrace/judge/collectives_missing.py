"""Ranks that hold different values of what must agree, and no collective between them.

What is said rests on what was recorded: the call (or, of gradients after reduction, the
step) has no collective that reaches both ranks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ttrace.compare.collectives.collective_calls import axes_of, ranks_text
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.collective import CollectivePart, Role
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace import ShardRecord, TensorRecord, TraceInfo
from ttrace.judge.diagnosis import Diagnosis
from ttrace.judge.verdicts.replica_axes import Apart, axes_between, coords_on
from ttrace.judge.verdicts.structure import layers_left_out

_OF_STEP = frozenset({Kind.MAIN_GRAD, Kind.CLIPPED_GRAD})
"""What is reduced outside of modules, many of them at once."""

_OF_CALL: Mapping[Kind, bool] = {
    Kind.OUTPUT: False,
    Kind.GRAD_INPUT: True,
    Kind.PARAM_GRAD: True,
}
"""What the call of a module makes, and whether its backward does."""

_MAX_NAMED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingCollective:
    """Of the first tensor that must agree on some ranks, and does not.

    Attributes:
        id: The tensor.
        ranks: Those that must agree.
        instead: What the same call runs over other ranks, as the first rank ran it.
        alike: What the same module of another layer, or another call, runs over such
            ranks; None where there is none.
        alike_in: That module; empty where there is none.
    """

    id: TensorId
    ranks: tuple[int, ...]
    instead: tuple[CollectivePart, ...] = ()
    alike: CollectivePart | None = None
    alike_in: str = ""


def find_missing_collective(
    record: TensorRecord, replicas: Sequence[Apart], info: TraceInfo
) -> MissingCollective | None:
    """Looks for a collective between ranks whose replicas of a tensor differ.

    Args:
        record: The first tensor of which some do.
        replicas: Those; at least one.
        info: The run that recorded them.

    Returns:
        None where one ran, or where collectives were not recorded there.
    """
    id_ = record.id
    if id_.kind not in _OF_CALL and id_.kind not in _OF_STEP:
        return None
    apart = min(replicas, key=lambda one: len(_axes(one, record, info)) or 99)
    axes = _axes(apart, record, info)
    pair = frozenset({apart.rank, apart.against})
    if not axes or not _recorded_all(info, id_):
        return None
    shards = list(_collectives(info, id_.step))
    size = max(math.prod(shard.layout.local_shape) for shard in record.shards)
    there = [shard for shard in shards if _is_there(shard, id_, size)]
    if any(pair <= frozenset(_part(shard).group) for shard in there):
        return None
    alike = [
        shard
        for shard in shards
        if id_.kind in _OF_CALL
        and layers_left_out(shard.id.module) == layers_left_out(id_.module)
        and _is_backward(shard.id) == _OF_CALL[id_.kind]
        and set(axes_of(_part(shard).group, info)) == axes
    ]
    # Rather that of the same ranks.
    alike.sort(key=lambda shard: not pair <= frozenset(_part(shard).group))
    first_rank = there[0].rank if there else None
    instead = {
        (part.group_name, part.number): part
        for shard in there
        if shard.rank == first_rank and shard.id.module == id_.module
        if (part := _part(shard)).reduction
    }
    return MissingCollective(
        id=id_,
        ranks=_ranks_along(axes, apart.rank, record, info),
        instead=tuple(instead.values()),
        alike=_part(alike[0]) if alike else None,
        alike_in=alike[0].id.module if alike else "",
    )


def missing_collective(found: MissingCollective, info: TraceInfo) -> Diagnosis:
    """Says what lacks a collective, what ran in its place, and where others have it.

    Args:
        found: What was found.
        info: The run.
    """
    over = ranks_text(found.ranks, info)
    what = f"{found.id} must agree over {over} and does not"
    if found.id.kind in _OF_STEP:
        why = (
            f"no reduction over {over} that is as large was recorded in step "
            f"{found.id.step}"
        )
    else:
        way = "backward" if _OF_CALL[found.id.kind] else "forward"
        of = "the model" if found.id.module == ROOT_MODULE else found.id.module
        why = f"no collective over {over} was recorded in that {way} of {of}"
    todo = f": reduce it over {over}, or gather what its ranks have"
    alike = ""
    if found.alike is not None:
        there = ranks_text(found.alike.group, info)
        alike = f"; in {found.alike_in} {found.alike.place} runs over {there}"
        todo = f"{alike}: run that here, too"
    if found.instead:
        named = ", ".join(
            f"{part.place} over {ranks_text(part.group, info)}"
            for part in found.instead[:_MAX_NAMED]
        )
        todo = f"; what ran there is {named}{alike}: give it the group of {over}"
    return Diagnosis(
        code="collective_missing",
        sentence=f"{what}, and {why}{todo}",
        evidence={"ranks": over, "num_instead": len(found.instead)},
        tensor_ids=(str(found.id),),
    )


def _axes(apart: Apart, record: TensorRecord, info: TraceInfo) -> frozenset[str]:
    """The axes along which two ranks differ; none where they are on no common mesh."""
    coords = coords_on(record.shards[0].layout.mesh, info)
    here, there = coords.get(apart.rank), coords.get(apart.against)
    return frozenset() if here is None or there is None else axes_between(here, there)


def _ranks_along(
    axes: frozenset[str], rank: int, record: TensorRecord, info: TraceInfo
) -> tuple[int, ...]:
    coords = coords_on(record.shards[0].layout.mesh, info)
    return tuple(
        other
        for other, place in sorted(coords.items())
        if axes_between(place, coords[rank]) <= axes
    )


def _recorded_all(info: TraceInfo, id_: TensorId) -> bool:
    """Whether each rank recorded all collectives that may have made a tensor."""
    module = None if id_.kind in _OF_STEP else id_.module
    first = info.ranks[0]
    if first.framework == "jax" or len(info.ranks) < first.world_size:
        return False  # no collective of a compiled program is recorded
    return all(
        CaptureFilter.from_json(dict(rank.capture)).wants_collectives_of(module)
        for rank in info.ranks
    )


def _collectives(info: TraceInfo, step: int) -> Iterable[ShardRecord]:
    for record in info.tensors.values():
        if record.id.kind is Kind.COLLECTIVE and record.id.step == step:
            for shard in record.shards:
                if shard.collective is not None:
                    yield shard


def _is_there(shard: ShardRecord, id_: TensorId, size: int) -> bool:
    """Whether a collective ran where a tensor was made."""
    if id_.kind in _OF_STEP:
        part = _part(shard)
        is_large = math.prod(shard.layout.local_shape) >= size
        return bool(part.reduction) and part.role is Role.OPERAND and is_large
    own = shard.id
    is_inside = id_.module in (own.module, ROOT_MODULE) or own.module.startswith(
        f"{id_.module}."
    )
    return (
        is_inside
        and own.microbatch in (id_.microbatch, None)
        and _is_backward(own) == _OF_CALL[id_.kind]
    )


def _is_backward(id_: TensorId) -> bool:
    return ".backward." in (id_.slot or "")


def _part(shard: ShardRecord) -> CollectivePart:
    assert shard.collective is not None
    return shard.collective
