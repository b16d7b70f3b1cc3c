"""Names the first operation that differs in each place that is wrong by itself.

One more run of either command, with the operations of these modules alone; the
candidate's on the reference's values, as the run that found the places.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.errors import TtraceError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.operation import OPERATION_FRAMEWORKS
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.isolation.operations.agreement import is_inexact
from ttrace.isolation.operations.call import (
    Holder,
    OperationCall,
    call_id,
    keys_named,
    name_inside,
    recorded_call,
)
from ttrace.isolation.operations.first_difference import (
    Difference,
    first_difference,
)
from ttrace.isolation.operations.targets import (
    OF_OTHERS,
    InsideRequest,
    Target,
    plan_targets,
)
from ttrace.isolation.operations.twins import (
    Load,
    block_forms,
    find_twins,
    keys_holding,
    mesh_axes,
    pending_sums,
    value_forms,
)
from ttrace.isolation.operations.wording import finding_of
from ttrace.report.isolation import IsolatedPlace, OperationFinding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """A call that may make something.

    Attributes:
        call: Its operations.
        keys: Of what it makes; none where it does not.
        is_alone: It is that of one rank, of which others ran another.
    """

    call: OperationCall
    keys: tuple[str, ...]
    is_alone: bool = False


def operations_inside(
    places: Sequence[IsolatedPlace], request: InsideRequest
) -> tuple[tuple[IsolatedPlace, ...], tuple[str, ...]]:
    """The places with the first operation that differs, and what is to be noted.

    A run that fails leaves the places as they are, with the reason as a note.
    """
    targets = plan_targets(places, request)
    if not targets:
        return tuple(places), ()
    without = {
        run.info.ranks[0].framework for run in (request.reference, request.again)
    } - OPERATION_FRAMEWORKS
    if without:
        return tuple(places), (
            "which operation is wrong in it was not looked for: the frontend "
            f"{', '.join(sorted(without))} records no operations; compare the code of "
            "both there",
        )
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


def _filter(targets: Sequence[Target], step: int, *, own: bool) -> CaptureFilter:
    modules = dict.fromkeys(
        target.own_module if own else target.module for target in targets
    )
    return CaptureFilter(
        modules=tuple(modules),
        # Outputs, too: a module that runs no operation itself would record nothing.
        kinds=frozenset({Kind.OP, Kind.OUTPUT}),
        steps=frozenset({step}),
    )


def _inside(
    target: Target,
    request: InsideRequest,
    reference: TraceSource,
    candidate: TraceSource,
) -> OperationFinding | str:
    """The first operation that differs; or why none is named."""
    calls = _holders(candidate.info, target, own=True)
    if not calls:
        return "no operation of the candidate was recorded" + _why(
            candidate.info, target.own_module
        )
    back = target.is_backward
    theirs = _makings(
        reference,
        _holders(reference.info, target, own=False),
        _expected(target, request),
        names={name_inside(target.id, target.module)},
        is_backward=back,
    )
    if not theirs:
        return "no operation of the reference was recorded" + _why(
            reference.info, target.module
        )
    held = _held(target, request)
    names = {
        name_inside(id_, target.own_module)
        for id_, _ in target.own
        if id_.kind is target.id.kind
    }
    makings = _makings(candidate, calls, held, names=names, is_backward=back)
    ours = [one for one in makings if one.keys][:1]
    if not ours and back:
        # Shares of a gradient are added up elsewhere.
        ours = [replace(one, keys=_last_results(one.call)) for one in makings[:1]]
    if not ours:
        # Ranks that do not run one program, each for itself.
        alone = [{holder} for holders in calls for holder in sorted(holders, key=str)]
        ours = [
            replace(one, is_alone=True)
            for one in _makings(candidate, alone, held, names=names, is_backward=back)
            if one.keys
        ]
    if not ours:
        return (
            "what is wrong is not among the results of its own operations, so that "
            "none of them is named"
        )
    by_reference = next((one for one in theirs if one.keys), theirs[0])
    return _first_finding(ours, by_reference, target, candidate, reference)


def _first_finding(
    ours: Sequence[_Making],
    theirs: _Making,
    target: Target,
    candidate: TraceSource,
    reference: TraceSource,
) -> OperationFinding | str:
    """The same of calls that make what is wrong: the first that tells something."""
    load = _load(candidate, target.scale)
    forms = value_forms(
        theirs.call,
        reference.load,
        mesh_axes(reference.info, _all_holders(theirs.call)),
    )
    finding = None
    for one in ours:
        own_forms = (
            block_forms(one.call, load)
            if one.is_alone
            else value_forms(
                one.call,
                load,
                mesh_axes(candidate.info, _all_holders(one.call)),
            )
        )
        tolerance = max(target.tolerance, _rounding(one.call, one.keys))
        twins = find_twins(own_forms, forms, tolerance)
        found = first_difference(
            one.call,
            theirs.call,
            twins,
            wrong=one.keys if target.is_backward else one.keys[:1],
            expected=() if target.is_backward else theirs.keys,
            pending=pending_sums(
                {key: own_forms.get(key, ()) for key in one.keys},
                forms,
                twins,
                tolerance,
            )
            if target.is_whole
            else (),
        )
        if found is None:
            continue
        if finding is None or found.what is not Difference.OTHER_WAY:
            finding = finding_of(found, own_forms, forms, tolerance)
            if target.is_backward:
                sentence = f"on the way back, {finding.sentence}"
                finding = replace(finding, sentence=sentence)
        if found.what is not Difference.OTHER_WAY:
            break
    return finding or (
        "every operation agrees by itself within its tolerance: what is wrong comes of "
        "what ranks exchange or add up, or is made elsewhere"
    )


def _load(source: TraceSource, scale: float) -> Load:
    """Gives the values of a run without a known factor."""

    def load(shard: ShardRecord) -> np.ndarray:
        values = source.load(shard)
        is_scaled = scale != 1 and is_inexact(values.dtype)
        return values / scale if is_scaled else values

    return load


def _last_results(call: OperationCall) -> tuple[str, ...]:
    """The results that nothing of the call takes."""
    taken = {key for one in call.operations for key in one.operands}
    taken |= {key for keys in call.written.values() for key in keys}
    return tuple(
        key for one in call.operations for key in one.results if key not in taken
    )


def _all_holders(call: OperationCall) -> frozenset[Holder]:
    return frozenset(holder for held in call.shards.values() for holder in held)


def _rounding(call: OperationCall, keys: Sequence[str]) -> float:
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
        if target.id.kind in OF_OTHERS or target.id.kind is Kind.PARAM_GRAD
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


def _makings(
    source: TraceSource,
    calls: Sequence[Collection[Holder]],
    held: Mapping[tuple[int | None, int], np.ndarray],
    *,
    names: Collection[str],
    is_backward: bool,
) -> list[_Making]:
    """The operations of some calls, with the keys of something that they may make.

    Args:
        source: The run.
        calls: Those that may make it, each with its ranks.
        held: What is made, by micro-batch and rank.
        names: What it is to the module: another program of the same step may compute
            it with other last bits.
        is_backward: A backward makes it.
    """
    makings = []
    for holders in calls:
        call = recorded_call(source.info, holders, is_backward=is_backward)
        if call is None:
            continue
        of_holders = {
            (id_, rank): held[id_.microbatch, rank]
            for id_, rank in holders
            if (id_.microbatch, rank) in held
        }
        keys = keys_holding(call, source.load, of_holders) if of_holders else ()
        keys = keys or keys_named(call, names)
        makings.append(_Making(call=call, keys=keys))
    return makings


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
