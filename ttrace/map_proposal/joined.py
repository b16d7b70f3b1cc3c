"""What modules give whose weights are parts of one matrix: joined as these are."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.transform import (
    AxisPattern,
    Shape,
    ShapeContradiction,
    Transform,
    solve_sizes,
)
from ttrace.map_proposal.arrangement import Arrangement, apply_arrangement
from ttrace.map_proposal.recorded_activations import (
    WITH_GRADIENTS,
    Activations,
    Instance,
    pattern_text,
)
from ttrace.map_proposal.underived import Underived
from ttrace.map_proposal.units import Pairing
from ttrace.map_proposal.weight_dims import LEADING
from ttrace.mapping.groups import Group, Position
from ttrace.mapping.rules import TensorRule, other_side


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outputs:
    """The outputs of modules whose weights are joined.

    Attributes:
        rule: That of the weights.
        list_side: The run that has several modules.
        parts: Their instances and outputs, in the order of the list.
        whole: The instance and the output of the other run.
    """

    rule: TensorRule
    list_side: Side
    parts: tuple[tuple[Instance, TensorId], ...]
    whole: tuple[Instance, TensorId]


def pair_joined_outputs(
    groups: Iterable[Group], sides: dict[Side, Activations], underived: Underived
) -> list[Pairing]:
    """Pairs the outputs of modules whose weights are parts of one matrix.

    Args:
        groups: Of parameters.
        sides: The activations of both runs.
        underived: Takes note of what could not be derived.
    """
    pairings: dict[tuple[str, ...], Pairing] = {}
    for group in groups:
        if group.rule.join is not None:
            for outputs in _outputs_of(group, sides):
                pairing = None
                with underived.guarded(outputs.whole[1]):
                    pairing = _pairing(outputs, sides)
                if pairing is not None:
                    names = (*pairing.reference, *pairing.candidate)
                    pairings.setdefault(names, pairing)
    return list(pairings.values())


def _outputs_of(group: Group, sides: dict[Side, Activations]) -> Iterable[_Outputs]:
    rule = group.rule
    list_side = Side.REFERENCE if len(rule.reference) > 1 else Side.CANDIDATE
    whole_side = other_side(list_side)
    tensors = {Side.REFERENCE: group.reference, Side.CANDIDATE: group.candidate}
    stacked = {side: len(rule.stacked(side)) for side in Side}
    if max(stacked.values()) > 1:
        return
    indices = {part.indices for side in Side for part in tensors[side]} - {()}
    for index in sorted(indices) or [()]:

        def output(
            side: Side, member: int, index: tuple[int, ...] = index
        ) -> tuple[Instance, TensorId] | None:
            own = index if stacked[side] else ()
            weight = tensors[side].get(Position(member=member, indices=own))
            if weight is None:
                return None
            call = index[0] if index and not stacked[side] else None
            instance = Instance(module=weight.module, call=call)
            slots = sides[side].slots(instance, Kind.OUTPUT)
            return (instance, next(iter(slots.values()))) if slots else None

        whole = output(whole_side, 0)
        parts = [output(list_side, m) for m in range(len(rule.patterns(list_side)))]
        found = [part for part in parts if part is not None]
        if whole is not None and len(found) == len(parts):
            yield _Outputs(
                rule=rule, list_side=list_side, parts=tuple(found), whole=whole
            )


def _pairing(outputs: _Outputs, sides: dict[Side, Activations]) -> Pairing | None:
    own, other = sides[outputs.list_side], sides[other_side(outputs.list_side)]
    found = list(
        _arrangements(
            outputs,
            [own.shape(tensor_id) for _, tensor_id in outputs.parts],
            other.shape(outputs.whole[1]),
        )
    )
    if not found:
        return None
    parts = [own.array(tensor_id) for _, tensor_id in outputs.parts]
    whole = other.array(outputs.whole[1])
    tolerance = max(
        other.tolerance(outputs.whole[1]),
        *(own.tolerance(tensor_id) for _, tensor_id in outputs.parts),
    )
    agreeing = (a for a in found if _agree(a, parts, whole, tolerance))
    arrangement = next(agreeing, None)
    verified = arrangement is not None
    arrangement = arrangement or found[0]
    names = {
        outputs.list_side: tuple(pattern_text(*part) for part in outputs.parts),
        other_side(outputs.list_side): (pattern_text(*outputs.whole),),
    }
    is_reference = outputs.list_side is Side.REFERENCE
    return Pairing(
        reference=names[Side.REFERENCE],
        candidate=names[Side.CANDIDATE],
        kinds=WITH_GRADIENTS[Kind.OUTPUT],
        transform=Transform(
            candidate=arrangement.whole if is_reference else arrangement.part,
            reference=arrangement.part if is_reference else arrangement.whole,
        ),
        join=outputs.rule.join,
        sizes=arrangement.sizes,
        part_sizes=arrangement.part_sizes,
        verified=verified,
        comment="" if verified else "joined as the weights are: its values differ",
    )


def _arrangements(
    outputs: _Outputs, parts: Sequence[tuple[int, ...]], whole: tuple[int, ...]
) -> Iterable[Arrangement]:
    """How the outputs may be joined, if their last dims are those of the weights."""
    rule, transform = outputs.rule, outputs.rule.transform
    assert transform is not None and rule.join is not None
    of_list, of_whole = transform.candidate, transform.reference
    if outputs.list_side is Side.REFERENCE:
        of_list, of_whole = of_whole, of_list
    # Which dims of the weights are those of the output is tried: the fewest first.
    for num_others in range(len(of_whole.dims)):
        for kept in itertools.combinations(of_whole.dims, num_others + 1):
            if not any(rule.join in dim for dim in kept):
                continue
            axes = {axis for dim in kept for axis in dim}
            tail = [dim for dim in of_list.dims if dim and set(dim) <= axes]
            if {axis for dim in tail for axis in dim} | {rule.join} != axes:
                continue
            yield from _with_leading(rule, tail, parts, kept, whole)


def _with_leading(
    rule: TensorRule,
    tail: Sequence[tuple[str, ...]],
    parts: Sequence[tuple[int, ...]],
    whole_tail: Sequence[tuple[str, ...]],
    whole: tuple[int, ...],
) -> Iterable[Arrangement]:
    """Arrangements of outputs that end in these dims, as far as their shapes fit.

    The dims in front may be in another order: samples or the sequence first.
    """
    num_leading = len(whole) - len(whole_tail)
    if not 0 < num_leading <= len(LEADING):
        return
    leading = tuple((name,) for name in LEADING[:num_leading])
    if len(parts[0]) == num_leading + 1 and len(tail) > 1:
        tail = [tuple(axis for dim in tail for axis in dim)]
    if len(parts[0]) != num_leading + len(tail):
        return
    part = AxisPattern(dims=(*leading, *tail))
    for dims in _orders(leading, whole_tail, rule.join):
        whole_pattern = AxisPattern(dims=dims)
        sizes = _sizes(rule, part, parts, whole_pattern, whole)
        if sizes is not None:
            yield Arrangement(
                part=part,
                whole=whole_pattern,
                sizes=sizes,
                part_sizes=rule.part_sizes,
                joins=True,
            )


def _orders(
    leading: Sequence[tuple[str, ...]],
    tail: Sequence[tuple[str, ...]],
    join: str | None,
) -> Iterable[tuple[tuple[str, ...], ...]]:
    """Orders of the dims of a whole output; the most usual first.

    A joined axis that is a dim of its own may lie in front of all others, as in
    ``BSD,2DKH->2BSKH``.
    """
    for order in itertools.permutations(leading):  # the same order first
        yield (*order, *tail)
    joined = tuple(dim for dim in tail if dim == (join,))
    if joined:
        others = [dim for dim in tail if dim != (join,)]
        for order in itertools.permutations(leading):
            yield (*joined, *order, *others)


def _sizes(
    rule: TensorRule,
    part: AxisPattern,
    parts: Sequence[tuple[int, ...]],
    whole: AxisPattern,
    whole_shape: tuple[int, ...],
) -> dict[str, int] | None:
    """The sizes of all axes, if they fit all shapes."""
    assert rule.join is not None
    part_sizes = rule.part_sizes or (1,) * len(parts)
    known = {**rule.sizes, rule.join: sum(part_sizes)}
    try:
        for shape, size in zip(parts, part_sizes, strict=True):
            of_part = Shape(dims=part.dims, lengths=shape, name="a part")
            found = solve_sizes([of_part], {**known, rule.join: size})
            known = {**found, rule.join: known[rule.join]}
        of_whole = Shape(dims=whole.dims, lengths=whole_shape, name="the whole")
        known = solve_sizes([of_whole], known)
    except ShapeContradiction:
        return None
    axes = {*part.axes, *whole.axes}
    if not axes <= known.keys():
        return None
    sizes = {axis: known[axis] for axis in axes}
    # An axis that a part alone does not tell was taken from the whole tensor: whether
    # the dims of the part have these lengths is still open.
    of_parts = ({**sizes, rule.join: size} for size in part_sizes)
    fits = all(map(_fits, itertools.repeat(part), parts, of_parts))
    return sizes if fits and _fits(whole, whole_shape, sizes) else None


def _fits(pattern: AxisPattern, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    lengths = tuple(math.prod(sizes[axis] for axis in dim) for dim in pattern.dims)
    return lengths == shape


def _agree(
    arrangement: Arrangement,
    parts: Sequence[np.ndarray | None],
    whole: np.ndarray | None,
    tolerance: float,
) -> bool:
    arrays = [part for part in parts if part is not None]
    if len(arrays) < len(parts) or whole is None:
        return False
    made = apply_arrangement(arrangement, arrays).astype(np.float64)
    error = float(np.linalg.norm(made - whole))
    return error <= tolerance * float(np.linalg.norm(whole.astype(np.float64)))
