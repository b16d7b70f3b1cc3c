"""The collectives that ran in the call which diverges first, and what they ought to."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ttrace.compare.collectives.collective_calls import axes_of
from ttrace.ir.collective import CollectivePart, Role
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import MAX_ELEMENTS, values_of
from ttrace.judge.verdicts.verdict import TensorVerdict

_OF_FORWARD = frozenset({Kind.OUTPUT})

_OF_BACKWARD = frozenset({Kind.GRAD_INPUT, Kind.PARAM_GRAD})

_EQUAL = 1e-3
"""Relative error of a sum that is the reference's; the candidate's own is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RightRanks:
    """Ranks over which the operands of a collective sum to the reference's value.

    Attributes:
        part: Of the collective, which runs over others, or reduces otherwise.
        ranks: These ranks.
        rel_err: Of that sum, against the reference.
        wrong_rel_err: Of the candidate's tensor.
    """

    part: CollectivePart
    ranks: tuple[int, ...]
    rel_err: float
    wrong_rel_err: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivesInside:
    """Of the call of the module that diverges first.

    Attributes:
        id: The first divergence.
        parts: One for each collective, as the first rank ran it; in order.
        right: Where a reduction should run instead; None where that is not known.
    """

    id: TensorId
    parts: tuple[CollectivePart, ...]
    right: RightRanks | None = None


def find_collectives_inside(
    verdict: TensorVerdict | None, reference: TraceSource, candidate: TraceSource
) -> CollectivesInside | None:
    """Looks for collectives in the call of a module.

    Args:
        verdict: On the first divergence: an output, or a gradient.
        reference: The trusted run.
        candidate: The run under test.
    """
    if verdict is None or not failed_by_values(verdict):
        return None
    id_ = verdict.id
    if id_.kind not in _OF_FORWARD | _OF_BACKWARD:
        return None
    by_slot: dict[str, dict[int, ShardRecord]] = {}
    parts: dict[tuple[str, int], CollectivePart] = {}
    first_rank = None
    for record in candidate.info.tensors.values():
        if not _is_inside(record.id, id_):
            continue
        for shard in record.shards:
            part = shard.collective
            if part is None:
                continue
            first_rank = shard.rank if first_rank is None else first_rank
            if shard.rank == first_rank:
                parts.setdefault((part.group_name, part.number), part)
            if part.role is Role.OPERAND and part.reduction:
                slot = (record.id.slot or "").rpartition(".rank")[0]
                by_slot.setdefault(slot, {})[shard.rank] = shard
    if not parts:
        return None
    return CollectivesInside(
        id=id_,
        parts=tuple(parts.values()),
        right=_right_ranks(verdict, by_slot, reference, candidate),
    )


def _is_inside(collective: TensorId, id_: TensorId) -> bool:
    """Whether it ran in the call of a tensor's module, in the tensor's direction."""
    is_backward = ".backward." in (collective.slot or "")
    return (
        collective.kind is Kind.COLLECTIVE
        and collective.step == id_.step
        and collective.microbatch == id_.microbatch
        and collective.module == id_.module
        and collective.pass_ is id_.pass_
        and (collective.call == id_.call or id_.kind is Kind.PARAM_GRAD)
        and is_backward == (id_.kind in _OF_BACKWARD)
    )


def _right_ranks(
    verdict: TensorVerdict,
    by_slot: Mapping[str, Mapping[int, ShardRecord]],
    reference: TraceSource,
    candidate: TraceSource,
) -> RightRanks | None:
    """Ranks whose operands of a collective sum to what the reference has."""
    match = verdict.result.plan.match if verdict.result is not None else None
    theirs = None if match is None else values_of(match.reference.id, reference)
    norm = 0.0 if theirs is None else float(np.linalg.norm(theirs))
    if theirs is None or not norm or match is None:
        return None
    ours = values_of(match.candidate.id, candidate)
    if ours is None or ours.size != theirs.size:
        return None
    scale = match.candidate.shards[0].scale
    wrong = float(np.linalg.norm(ours.reshape(-1) - theirs.reshape(-1))) / norm
    for shards in reversed(list(by_slot.values())):
        first = next(iter(shards.values()))
        part = first.collective
        assert part is not None
        if int(np.prod(first.layout.local_shape)) != theirs.size > 0:
            continue
        if theirs.size > MAX_ELEMENTS:
            continue
        for ranks in _other_groups(first.rank, candidate.info):
            is_as_it_is = part.reduction == "sum" and {*ranks} == {*part.group}
            if is_as_it_is or not shards.keys() >= {*ranks}:
                continue
            total = sum(
                candidate.load(shards[rank]).astype(np.float64).reshape(-1)
                for rank in ranks
            )
            rest = float(np.linalg.norm(total / scale - theirs.reshape(-1))) / norm
            if rest < min(_EQUAL, wrong / 10):
                return RightRanks(
                    part=shards[ranks[0]].collective or part,
                    ranks=ranks,
                    rel_err=rest,
                    wrong_rel_err=wrong,
                )
    return None


def _other_groups(rank: int, info: TraceInfo) -> Iterable[tuple[int, ...]]:
    """The groups along the axes of the meshes that a rank is in, small ones first."""
    meshes = {one.rank: one.meshes for one in info.ranks}
    for mesh in meshes.get(rank, ()):
        places = {
            other: next((m.coords for m in of_one if m.name == mesh.name), None)
            for other, of_one in meshes.items()
        }
        axes = [axis for axis, size in mesh.sizes.items() if size > 1]
        for count in range(1, len(axes) + 1):
            for chosen in itertools.combinations(axes, count):
                ranks = tuple(
                    other
                    for other, coords in places.items()
                    if coords is not None
                    and all(
                        coords[axis] == mesh.coords[axis]
                        for axis in mesh.sizes
                        if axis not in chosen
                    )
                )
                if axes_of(ranks, info):
                    yield ranks
