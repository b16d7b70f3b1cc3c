"""What a proposed map leaves out: what only one run has, and why."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ttrace.compare.align import Alignment, Skipped, Unmatched, align
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.map_proposal.constants import find_constants
from ttrace.map_proposal.duplicates import find_duplicates
from ttrace.map_proposal.reasons import Cause, Reason
from ttrace.mapping.apply import map_traces
from ttrace.mapping.groups import Position, find_groups
from ttrace.mapping.rules import IgnoreRule, MapFile, name_of, other_side

_NUMBER = re.compile(r"(?<![^._])\d+(?![^.])")

_ACTIVATIONS = (Kind.INPUT, Kind.OUTPUT, Kind.GRAD_INPUT, Kind.GRAD_OUTPUT)

_MAY_BE_ABSENT = (
    *_ACTIVATIONS,
    Kind.GRAD_NORM,
    Kind.LEARNING_RATE,
    Kind.OPTIMIZER_STATE,
)
"""Kinds that one of the runs may not record at all; parameters and their gradients are
what a comparison is about."""

_COUNTERS = {
    Kind.OPTIMIZER_STATE: Cause.KEPT_ELSEWHERE,
    Kind.BUFFER: Cause.COUNTER,
    Kind.UPDATED_BUFFER: Cause.COUNTER,
}
"""Kinds of which a single number is no part of the model, and what it is then."""

SlotOfModule = tuple[str, Kind, str | None]
"""Module, kind and slot of an activation: the same in every step and micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Tensors of one run that the map leaves out for one kind of reason.

    Attributes:
        side: The run that has them.
        is_gap: They were computed, and nothing that is compared holds the same.
        reason: Why they are left out; of several reasons of the kind the first one.
        num_tensors: How many, of all steps.
        num_activations: How many of them are inputs and outputs.
        patterns: The entries that leave them out.
    """

    side: Side
    is_gap: bool
    reason: str
    num_tensors: int
    num_activations: int
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A map with its entries for what only one run has.

    Attributes:
        map_file: The map.
        unmatched: What only one run has and the map does not ignore.
        left_out: What it ignores, by side and kind of reason.
    """

    map_file: MapFile
    unmatched: tuple[tuple[Side, TensorId], ...]
    left_out: tuple[LeftOut, ...]


def with_ignored(
    map_file: MapFile,
    reference: TraceSource,
    candidate: TraceSource,
    known: Mapping[Side, Mapping[SlotOfModule, str]],
) -> Ignored:
    """The map with entries for activations, and for kinds, that only one run has.

    Args:
        map_file: The rules that were found.
        reference: The trusted run.
        candidate: The run under test.
        known: Why activations have no counterpart, where that was found out.

    Returns:
        The map, what it leaves out, and what only one run has beside that.
    """
    alignment = align(
        *(trace.info for trace in map_traces(map_file, reference, candidate))
    )
    traces = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    infos = {side: trace.info for side, trace in traces.items()}
    kinds = {side: {i.kind for i in info.tensors} for side, info in infos.items()}
    own_names = _own_names(map_file, reference, candidate)
    one_sided: dict[Side, dict[TensorId, Reason]] = {side: {} for side in Side}
    unmatched = []
    constants = find_constants(_unmatched(alignment), traces)
    for side, tensor_id in _unmatched(alignment):
        other = other_side(side)
        if tensor_id.kind in _MAY_BE_ABSENT and tensor_id.kind not in kinds[other]:
            reason = Reason(
                cause=Cause.NOT_RECORDED, side=side, detail=tensor_id.kind.value
            )
        elif tensor_id.kind in _ACTIVATIONS:
            reason = _not_found(side)
            if (told := known[side].get(_place(tensor_id))) is not None:
                reason = Reason(cause=Cause.KNOWN, side=side, detail=told)
        elif tensor_id.kind in _COUNTERS and _is_scalar(
            tensor_id, own_names, infos[side]
        ):
            reason = Reason(cause=_COUNTERS[tensor_id.kind], side=side)
        elif (side, tensor_id) in constants:
            reason = Reason(cause=Cause.CONSTANT, side=side)
        else:
            unmatched.append((side, tensor_id))
            continue
        names = own_names.get(tensor_id) if side is Side.CANDIDATE else None
        one_sided[side] |= dict.fromkeys(names or [tensor_id], reason)
    skipped = _skipped(alignment, own_names)
    namesakes = _namesakes(alignment, map_file, infos)
    found = {
        side: find_duplicates(traces[side], [*one_sided[side], *namesakes], skipped)
        for side in Side
    }
    for tensor_id in namesakes:
        # One of the two is compared under another name, so that they are not the same.
        if any(tensor_id in found[side] for side in Side):
            for side in Side:
                one_sided[side][tensor_id] = _not_found(side)
    for side in Side:
        for tensor_id, holder in found[side].items():
            reason = one_sided[side].get(tensor_id)
            if reason is not None and reason.is_gap:
                one_sided[side][tensor_id] = Reason(
                    cause=Cause.SAME_CONTENT, side=side, detail=holder
                )
    ignored: list[_Entry] = []
    left_out = []
    for side in Side:
        entries, left = _entries(side, one_sided[side], skipped, infos[side])
        ignored += entries
        unmatched += [(side, tensor_id) for tensor_id in left]
        ids = [tensor_id for tensor_id in one_sided[side] if tensor_id not in left]
        left_out += _left_out(side, entries, {i: one_sided[side][i] for i in ids})
    # What somebody should look at first: it was computed, and has no counterpart.
    ignored.sort(key=lambda entry: not entry.reason.is_gap)
    return Ignored(
        map_file=replace(map_file, ignored=tuple(entry.rule for entry in ignored)),
        unmatched=tuple(unmatched),
        left_out=tuple(left_out),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """An entry of the map, and why it is there."""

    rule: IgnoreRule
    reason: Reason


def _left_out(
    side: Side, entries: Iterable[_Entry], one_sided: Mapping[TensorId, Reason]
) -> list[LeftOut]:
    """What is left out of a run, gaps first."""
    found = []
    groups = dict.fromkeys(reason.group for reason in one_sided.values())
    for group in sorted(groups, key=lambda group: not group.is_gap):
        ids = [i for i, reason in one_sided.items() if reason.group == group]
        found.append(
            LeftOut(
                side=side,
                is_gap=group.is_gap,
                reason=one_sided[ids[0]].text,
                num_tensors=len(ids),
                num_activations=sum(i.kind in (Kind.INPUT, Kind.OUTPUT) for i in ids),
                patterns=tuple(
                    entry.rule.pattern
                    for entry in entries
                    if entry.reason.group == group
                ),
            )
        )
    return found


def _not_found(side: Side) -> Reason:
    return Reason(cause=Cause.NO_COUNTERPART, side=side)


def _namesakes(
    alignment: Alignment, map_file: MapFile, infos: Mapping[Side, TraceInfo]
) -> list[TensorId]:
    """Activations that share a name which no rule gave them, but not a shape."""
    ruled = {
        tensor_id
        for group in find_groups(map_file, infos[Side.REFERENCE], infos[Side.CANDIDATE])
        for tensor_id in (*group.reference.values(), *group.candidate.values())
    }
    return [
        match.id
        for match in alignment.matches
        if match.id.kind in _ACTIVATIONS
        and match.id not in ruled
        and match.reference.global_shape != match.candidate.global_shape
        and all(match.id in info.tensors for info in infos.values())
    ]


def _skipped(
    alignment: Alignment, own_names: dict[TensorId, list[TensorId]]
) -> set[TensorId]:
    """What is not compared anyway, by the names of either run."""
    skipped = {entry.id for entry in alignment.entries if isinstance(entry, Skipped)}
    return skipped | {name for i in skipped for name in own_names.get(i, ())}


def _unmatched(alignment: Alignment) -> Iterable[tuple[Side, TensorId]]:
    for entry in alignment.entries:
        if isinstance(entry, Unmatched):
            yield entry.present, entry.id


def _is_scalar(
    tensor_id: TensorId,
    own_names: dict[TensorId, list[TensorId]],
    info: TraceInfo,
) -> bool:
    """Whether it is a single number, such as a count of steps."""
    own = own_names.get(tensor_id, [tensor_id])[0]
    record = info.tensors.get(own, info.tensors.get(tensor_id))
    return record is not None and record.global_shape == ()


def _own_names(
    map_file: MapFile, reference: TraceSource, candidate: TraceSource
) -> dict[TensorId, list[TensorId]]:
    """What the candidate itself calls tensors that only it has."""
    names: dict[TensorId, list[TensorId]] = {}
    for group in find_groups(map_file, reference.info, candidate.info):
        if not group.reference and not group.rule.stacked(Side.REFERENCE):
            for member in range(len(group.rule.reference)):
                made = group.reference_id(Position(member=member, indices=()))
                names.setdefault(made, []).extend(group.candidate.values())
    return names


def _entries(
    side: Side,
    one_sided: dict[TensorId, Reason],
    skipped: set[TensorId],
    info: TraceInfo,
) -> tuple[list[_Entry], list[TensorId]]:
    """Entries that leave these tensors out and none that is compared.

    Returns:
        As few entries as can be, and the tensors that none leaves out: those of the
        same name are compared in other steps.
    """
    entries, unmatched = [], []
    left = dict(one_sided)
    calls: dict[SlotOfModule, set[str]] = {}
    for tensor_id in one_sided:
        calls.setdefault(_place(tensor_id), set()).add(name_of(tensor_id))
    while left:
        tensor_id, reason = next(iter(left.items()))
        has_calls = len(calls[_place(tensor_id)]) > 1
        for pattern in _patterns(tensor_id, has_calls=has_calls):
            rule = IgnoreRule(side=side, pattern=pattern, reason=reason.text)
            matched = [i for i in info.tensors if rule.matches(i)]
            own = {one_sided.get(i) for i in matched if i not in skipped}
            if tensor_id in matched and all(
                each is not None and each.group == reason.group for each in own
            ):
                if len({one_sided.get(i, reason) for i in matched}) > 1:
                    reason = reason.group
                    rule = replace(rule, reason=reason.text)
                entries.append(_Entry(rule=rule, reason=reason))
                break
        else:
            unmatched.append(tensor_id)
            matched = [tensor_id]
        left = {i: text for i, text in left.items() if i not in matched}
    return entries, unmatched


def _place(tensor_id: TensorId) -> SlotOfModule:
    return tensor_id.module, tensor_id.kind, tensor_id.slot


def _patterns(tensor_id: TensorId, *, has_calls: bool) -> Iterable[str]:
    """Patterns that match a tensor, the widest first.

    Args:
        tensor_id: The tensor.
        has_calls: There are further calls or recomputations of it.
    """
    slot = "" if tensor_id.slot is None else "/*"
    yield f"*/{tensor_id.kind}{slot}"
    if tensor_id.kind is Kind.OPTIMIZER_STATE and "." in (tensor_id.slot or ""):
        yield f"*/{tensor_id.kind}/*.{(tensor_id.slot or '').rpartition('.')[2]}"
    if tensor_id.slot is not None:
        outer, dot, _ = tensor_id.slot.partition(".")
        if dot:
            yield f"*/{tensor_id.kind}/{outer}.*"
            yield f"*/{tensor_id.kind}/{tensor_id.slot}"
    name = name_of(tensor_id)
    module, _, rest = name.partition("/")
    numberless = _NUMBER.sub("*", module)
    last = numberless.rpartition(".")[2]
    if last not in ("*", module):
        yield f"*.{last}/*"
        yield f"*.{last}/{tensor_id.kind}{slot}"
    yield f"{numberless}/*"
    for match in _NUMBER.finditer(module):
        of_layers = f"{module[: match.start()]}*{module[match.end() :]}"
        yield f"{of_layers}/{tensor_id.kind}{slot}"
        yield f"{of_layers}/{rest}"
    yield f"{numberless}/{tensor_id.kind}{slot}"
    if slot and has_calls:
        yield f"{numberless}/{tensor_id.kind}/{tensor_id.slot}*"
    yield f"{numberless}/{rest}"
    yield name
