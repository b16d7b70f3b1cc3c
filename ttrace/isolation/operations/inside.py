"""Names the first operation that differs in each place that is wrong by itself.

One more run of either command, with the operations of these modules alone; the
candidate's on the reference's values, as the run that found the places.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.errors import TtraceError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId, parse_tensor_id
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.isolation.operations.call import (
    Holder,
    OperationCall,
    call_id,
    recorded_call,
)
from ttrace.isolation.operations.first_difference import first_difference
from ttrace.isolation.operations.twins import (
    find_twins,
    keys_holding,
    mesh_axes,
    value_forms,
)
from ttrace.isolation.operations.wording import finding_of
from ttrace.report.isolation import IsolatedPlace, OperationFinding
from ttrace.report.model import Report, TensorReport

RecordReference = Callable[[CaptureFilter], TraceSource]
"""Runs the reference once more, recording what a filter lets through."""

Held = tuple[TensorId, int]

_MAX_PLACES = 4
"""Places that are looked into."""

_FORWARD = (Kind.OUTPUT, Kind.INPUT)

_MAX_SLACK = 10.0
"""How much more than a module's output what is inside of it may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is wrong of a place, and where it lies in both runs.

    Attributes:
        place: Which of the places.
        id: The tensor that is wrong, under the reference's names.
        module: Whose operations make it, under the reference's names.
        own_module: The same under the candidate's.
        own: The recorded tensors of the candidate, with their ranks, that it is of.
        tolerance: Largest relative difference of what agrees.
    """

    place: int
    id: TensorId
    module: str
    own_module: str
    own: frozenset[Held]
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideRequest:
    """What is looked into, and how the runs are made.

    Attributes:
        reference: The reference as it was recorded.
        again: The candidate that ran on the reference's values.
        report: The comparison of both.
        overwritten: Where the candidate holds what was overwritten, by the id under
            which it is compared.
        step: The step that counts.
        record_reference: Runs the reference once more; None where nobody can.
        record_candidate: Runs the candidate once more, on the same values.
    """

    reference: TraceSource
    again: TraceSource
    report: Report
    overwritten: Mapping[TensorId, Collection[Held]]
    step: int
    record_reference: RecordReference | None
    record_candidate: Callable[[CaptureFilter], TraceSource]


def operations_inside(
    places: Sequence[IsolatedPlace], request: InsideRequest
) -> tuple[tuple[IsolatedPlace, ...], tuple[str, ...]]:
    """The places with the first operation that differs, and what is to be noted.

    A run that fails leaves the places as they are, with the reason as a note.
    """
    targets = plan_targets(places, request)
    if not targets:
        return tuple(places), ()
    if request.record_reference is None:
        return tuple(places), (
            "which operation is wrong in it, the operations of the reference would "
            "tell: give the command of the reference, too (--reference)",
        )
    try:
        reference = request.record_reference(_filter(targets, request.step, own=False))
        candidate = request.record_candidate(_filter(targets, request.step, own=True))
    except TtraceError as error:
        return tuple(places), (
            "the operations inside were to be recorded in one more run of each: "
            f"{error.what}; to do: {error.remedy}",
        )
    found = list(places)
    notes: dict[str, None] = {}
    for target in targets:
        finding = _inside(target, request, reference, candidate)
        if isinstance(finding, OperationFinding):
            found[target.place] = replace(found[target.place], operation=finding)
        else:
            notes[f"inside {places[target.place].module}, {finding}"] = None
    return tuple(found), tuple(notes)


def plan_targets(
    places: Sequence[IsolatedPlace], request: InsideRequest
) -> tuple[Target, ...]:
    """What of the places is looked into: those of which a forward value is wrong."""
    by_id = {tensor.id: tensor for tensor in request.report.tensors}
    targets = []
    for number, place in enumerate(places):
        ids = [parse_tensor_id(text) for text in place.ids]
        wrong = [
            id_
            for id_ in ids
            if id_.kind in _FORWARD
            and id_.pass_ is Pass.FORWARD
            and (id_.kind is Kind.INPUT) == (id_.module != place.module)
        ]
        if not wrong or len(targets) == _MAX_PLACES:
            continue
        first = wrong[0]
        own = _own_tensors(first, place.module, request)
        names = {id_.module for id_, _ in own if id_.kind is not Kind.INPUT} or {
            place.module
        }
        targets.append(
            Target(
                place=number,
                id=first,
                module=place.module,
                own_module=min(names),
                own=own,
                tolerance=_tolerance(by_id.get(str(first))),
            )
        )
    return tuple(targets)


def _own_tensors(id_: TensorId, module: str, request: InsideRequest) -> frozenset[Held]:
    """Where the candidate holds what is wrong: the id of the tensor, and the ranks.

    The inputs of the same call were overwritten, and say under which name.
    """
    around = [
        (own, rank)
        for compared, held in request.overwritten.items()
        if compared.module == module
        and (compared.step, compared.microbatch) == (id_.step, id_.microbatch)
        and compared.kind is Kind.INPUT
        and (id_.kind is Kind.INPUT or compared.call == id_.call)
        for own, rank in held
    ]
    if id_.kind is Kind.INPUT:
        held = request.overwritten.get(id_, ())
        own_module = min((own.module for own, _ in around), default=module)
        return frozenset(
            {
                *held,
                *(
                    (replace(own, module=own_module, kind=Kind.OUTPUT), rank)
                    for own, rank in around
                ),
            }
        )
    found = {(replace(own, kind=id_.kind, slot=id_.slot), rank) for own, rank in around}
    record = request.again.info.tensors.get(id_)
    if not found and record is not None:
        found = {(id_, shard.rank) for shard in record.shards}
    return frozenset(found)


def _tolerance(tensor: TensorReport | None) -> float:
    """Up to which difference operations agree.

    That of the module's output is one of sums and means over what is inside; where the
    module is far off, what is inside may differ by some more and agree.
    """
    if tensor is None or tensor.tolerance is None:
        return 1e-5
    margin = tensor.margin or 1.0
    slack = min(_MAX_SLACK, math.sqrt(max(margin, 1.0)))
    return tensor.tolerance * slack


def _filter(targets: Sequence[Target], step: int, *, own: bool) -> CaptureFilter:
    modules = dict.fromkeys(
        target.own_module if own else target.module for target in targets
    )
    return CaptureFilter(
        modules=(),
        kinds=frozenset({Kind.OP}),
        steps=frozenset({step}),
        operations=tuple(modules),
    )


def _inside(
    target: Target,
    request: InsideRequest,
    reference: TraceSource,
    candidate: TraceSource,
) -> OperationFinding | str:
    """The first operation that differs; or why none is named."""
    ours, wrong = _call_making(
        candidate, _holders(candidate.info, target, own=True), _held(target, request)
    )
    if ours is None:
        return "no operation of the candidate was recorded" + _why(
            candidate.info, target.own_module
        )
    if not wrong:
        return (
            "what is wrong is not among the results of its own operations, so that "
            "none of them is named"
        )
    theirs, expected = _call_making(
        reference,
        _holders(reference.info, target, own=False),
        _expected(target, request),
    )
    if theirs is None:
        return "no operation of the reference was recorded" + _why(
            reference.info, target.module
        )
    tolerance = max(target.tolerance, _rounding(candidate.info, ours, wrong))
    forms = [
        value_forms(call, source.load, mesh_axes(source.info, _all_holders(call)))
        for call, source in ((ours, candidate), (theirs, reference))
    ]
    found = first_difference(
        ours,
        theirs,
        find_twins(*forms, tolerance),
        wrong=wrong[:1],
        expected=expected,
    )
    if found is None:
        return "every operation agrees by itself within the tolerance of the module"
    return finding_of(found, *forms, tolerance)


def _all_holders(call: OperationCall) -> frozenset[Holder]:
    return frozenset(holder for held in call.shards.values() for holder in held)


def _rounding(info: TraceInfo, call: OperationCall, keys: Sequence[str]) -> float:
    """What no operation of that dtype can be better than."""
    shards = [shard for key in keys[:1] for shard in call.shards[key].values()]
    epsilon = dtype_named(shards[0].dtype).epsilon if shards else None
    return 2.0 * (epsilon or 0.0)


def _why(info: TraceInfo, module: str) -> str:
    for id_, skipped in info.skipped.items():
        if id_.kind is Kind.OP and id_.module == module:
            return f": {skipped.reason}"
    return (
        ": it ran none itself in this step, only modules inside of it, or its frontend "
        "records none"
    )


def _holders(info: TraceInfo, target: Target, *, own: bool) -> list[set[Holder]]:
    """Calls of the module that may have made what is wrong, each with its ranks."""
    module = target.own_module if own else target.module
    microbatches = (
        {id_.microbatch for id_, _ in target.own} if own else {target.id.microbatch}
    )
    numbers = (
        None
        if target.id.kind is Kind.INPUT
        else {id_.call for id_, _ in target.own}
        if own
        else {target.id.call}
    )
    by_number: dict[int, set[Holder]] = {}
    for id_, record in info.tensors.items():
        if (
            id_.kind is Kind.OP
            and id_.module == module
            and id_.microbatch in microbatches
            and (numbers is None or id_.call in numbers)
        ):
            holders = by_number.setdefault(id_.call, set())
            holders |= {(call_id(id_), shard.rank) for shard in record.shards}
    return [by_number[number] for number in sorted(by_number)]


def _call_making(
    source: TraceSource,
    calls: Sequence[set[Holder]],
    held: Mapping[tuple[int | None, int], np.ndarray],
) -> tuple[OperationCall | None, tuple[str, ...]]:
    """The call that makes something, and the keys of it there.

    Args:
        source: The run.
        calls: Those that may be it.
        held: What is made, by micro-batch and rank.
    """
    first = None
    for holders in calls:
        call = recorded_call(source.info, holders)
        if call is None:
            continue
        first = first or call
        of_holders = {
            (id_, rank): held[id_.microbatch, rank]
            for id_, rank in holders
            if (id_.microbatch, rank) in held
        }
        keys = keys_holding(call, source.load, of_holders) if of_holders else ()
        if keys:
            return call, keys
    return first, ()


def _held(
    target: Target, request: InsideRequest
) -> dict[tuple[int | None, int], np.ndarray]:
    """What the candidate has of what is wrong, as it came, by micro-batch and rank."""
    found = {}
    for id_, rank in target.own:
        if id_.kind is not target.id.kind:
            continue
        record = request.again.info.tensors.get(id_)
        for shard in () if record is None else record.shards:
            if shard.rank == rank:
                found[id_.microbatch, rank] = request.again.load(shard)
    return found


def _expected(
    target: Target, request: InsideRequest
) -> dict[tuple[int | None, int], np.ndarray]:
    """What the reference has in its place, likewise."""
    record = request.reference.info.tensors.get(target.id)
    return {
        (shard.id.microbatch, shard.rank): request.reference.load(shard)
        for shard in (() if record is None else record.shards)
    }
