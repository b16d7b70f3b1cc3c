"""Proposes a map for two traces; what has no counterpart is ignored, and said."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ttrace.compare.align import Alignment, Side, Skipped, Unmatched, align
from ttrace.errors import MapError
from ttrace.ir.tensor_id import Kind, TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.mapping.apply import map_traces
from ttrace.mapping.groups import Part, find_groups
from ttrace.mapping.proposal.activations import ActivationMatcher
from ttrace.mapping.proposal.contents import Content, read_content
from ttrace.mapping.proposal.generalization import generalize
from ttrace.mapping.proposal.parameters import BY_CONTENT, ParameterMatcher
from ttrace.mapping.proposal.structure import match_by_structure
from ttrace.mapping.proposal.units import Pairing
from ttrace.mapping.rules import IgnoreRule, MapFile, TensorRule, name_of, other_side
from ttrace.store.reader import Trace

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A proposed map, and what it rests on.

    Attributes:
        map_file: The map.
        num_parameters: Of the reference.
        num_by_content: How many of them were found by content.
        num_by_structure: How many by their place.
        unmatched: Tensors that only one run has and that the map does not ignore:
            parameters, with what follows them.
        unread: Parameters that could not be read whole.
    """

    map_file: MapFile
    num_parameters: int
    num_by_content: int
    num_by_structure: int
    unmatched: tuple[tuple[Side, TensorId], ...]
    unread: tuple[TensorId, ...]


def propose_map(reference: Trace, candidate: Trace, path: Path) -> Proposal:
    """Finds out which tensors of two traces are the same, and how they lie.

    Parameters of the first step are read and compared by content, activations of its
    first micro-batch by place and content. Activations that only one run has are
    ignored, with that as the reason; parameters never are.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        path: Where the map will be written; for errors.

    Raises:
        MapError: Neither run has parameters in common with the other.
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    unread: list[TensorId] = []
    contents = {
        side: _parameters(trace, unread)
        for side, trace in ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate))
    }
    matcher = ParameterMatcher(contents[Side.REFERENCE], contents[Side.CANDIDATE])
    activations = ActivationMatcher(reference, candidate)
    matcher.match()
    match_by_structure(matcher, activations.outputs_agree)
    if not matcher.pairings:
        raise MapError(
            "no parameter of one run is found in the other",
            where=f"{reference.path} and {candidate.path}",
            expected="runs that start from the same values, such as a converted "
            "checkpoint or those of ttrace.generate, with kind param recorded",
            got=f"{len(contents[Side.REFERENCE])} and "
            f"{len(contents[Side.CANDIDATE])} parameters, none of them alike",
            remedy="start both runs from the same parameters and record the first step",
        )
    parameters = _checked(_rules(matcher.pairings), reference, candidate, path)
    groups = find_groups(
        MapFile(path=path, rules=parameters),
        _only_parameters(reference.info),
        _only_parameters(candidate.info),
    )
    activations.match(groups)
    rules = _checked(
        (*parameters, *_rules(activations.pairings)), reference, candidate, path
    )
    map_file, unmatched = _with_ignored(
        MapFile(path=path, rules=rules), reference, candidate
    )
    left = len(matcher.left[Side.REFERENCE])
    num_parameters = len(contents[Side.REFERENCE])
    by_content = sum(
        len(group.reference)
        for group in groups
        if group.rule.comment.startswith(BY_CONTENT)
    )
    return Proposal(
        map_file=map_file,
        num_parameters=num_parameters,
        num_by_content=by_content,
        num_by_structure=num_parameters - left - by_content,
        unmatched=unmatched,
        unread=tuple(unread),
    )


def _parameters(trace: Trace, unread: list[TensorId]) -> list[Content]:
    records = [r for r in trace.info.tensors.values() if r.id.kind is Kind.PARAM]
    first = min((record.id.step for record in records), default=0)
    contents = []
    for record in records:
        if record.id.step == first and record.id.slot is not None:
            content = read_content(trace, record)
            if content is None:
                unread.append(record.id)
            else:
                contents.append(content)
    return contents


def _only_parameters(info: TraceInfo) -> TraceInfo:
    first = min((i.step for i in info.tensors if i.kind is Kind.PARAM), default=0)
    return replace(
        info,
        tensors={
            i: record
            for i, record in info.tensors.items()
            if i.kind is Kind.PARAM and i.step == first
        },
        skipped={},
    )


def _rules(pairings: Iterable[Pairing]) -> list[TensorRule]:
    rules = (pairing.to_rule() for pairing in _with_both_kinds(generalize(pairings)))
    return [rule for rule in rules if rule is not None and not _says_nothing(rule)]


def _with_both_kinds(pairings: Iterable[Pairing]) -> list[Pairing]:
    """One pairing for what a module takes and gives, where they are alike."""
    merged: dict[object, Pairing] = {}
    for pairing in pairings:
        key = (
            pairing.reference,
            pairing.candidate,
            str(pairing.transform),
            tuple(pairing.sizes.items()),
            pairing.sure,
        )
        if key in merged and pairing.kinds:
            kinds = (*merged[key].kinds, *pairing.kinds)
            merged[key] = replace(merged[key], kinds=kinds)
        else:
            merged[key] = pairing
    return list(merged.values())


def _says_nothing(rule: TensorRule) -> bool:
    """A tensor that no rule names keeps its name anyway."""
    return rule.transform is None and rule.reference == rule.candidate


def _checked(
    rules: Sequence[TensorRule], reference: Trace, candidate: Trace, path: Path
) -> tuple[TensorRule, ...]:
    """The rules that can be applied together; a later one gives way."""
    kept: list[TensorRule] = []
    numbered = [
        replace(rule, place=f"rule {number}") for number, rule in enumerate(rules)
    ]
    try:
        map_traces(MapFile(path=path, rules=tuple(numbered)), reference, candidate)
        return tuple(rules)
    except MapError:
        pass
    for rule, original in zip(numbered, rules, strict=True):
        try:
            map_traces(MapFile(path=path, rules=(*kept, rule)), reference, candidate)
        except MapError:
            continue
        kept.append(original)
    return tuple(kept)


def _with_ignored(
    map_file: MapFile, reference: Trace, candidate: Trace
) -> tuple[MapFile, tuple[tuple[Side, TensorId], ...]]:
    """The map with entries for activations, and for kinds, that only one run has."""
    alignment = align(
        *(trace.info for trace in map_traces(map_file, reference, candidate))
    )
    infos = {Side.REFERENCE: reference.info, Side.CANDIDATE: candidate.info}
    kinds = {side: {i.kind for i in info.tensors} for side, info in infos.items()}
    own_names = _own_names(map_file, reference, candidate)
    lone: dict[Side, dict[TensorId, str]] = {side: {} for side in Side}
    unmatched = []
    for side, tensor_id in _unmatched(alignment):
        other = other_side(side)
        if tensor_id.kind in _MAY_BE_ABSENT and tensor_id.kind not in kinds[other]:
            reason = f"the {other} recorded no {tensor_id.kind} at all"
        elif tensor_id.kind in _ACTIVATIONS:
            reason = f"no counterpart was found in the {other}"
        elif _is_bookkeeping(tensor_id, own_names, infos[side]):
            reason = f"a number that the {other}'s optimizer keeps elsewhere"
        else:
            unmatched.append((side, tensor_id))
            continue
        names = own_names.get(tensor_id) if side is Side.CANDIDATE else None
        lone[side] |= dict.fromkeys(names or [tensor_id], reason)
    skipped = _skipped(alignment, own_names)
    ignored = []
    for side in Side:
        entries, left = _entries(side, lone[side], skipped, infos[side])
        ignored += entries
        unmatched += [(side, tensor_id) for tensor_id in left]
    return replace(map_file, ignored=tuple(ignored)), tuple(unmatched)


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


def _is_bookkeeping(
    tensor_id: TensorId,
    own_names: dict[TensorId, list[TensorId]],
    info: TraceInfo,
) -> bool:
    """Whether it is a scalar of an optimizer, such as a number of steps."""
    own = own_names.get(tensor_id, [tensor_id])[0]
    record = info.tensors.get(own, info.tensors.get(tensor_id))
    return (
        tensor_id.kind is Kind.OPTIMIZER_STATE
        and record is not None
        and record.global_shape == ()
    )


def _own_names(
    map_file: MapFile, reference: Trace, candidate: Trace
) -> dict[TensorId, list[TensorId]]:
    """What the candidate itself calls tensors that only it has."""
    names: dict[TensorId, list[TensorId]] = {}
    for group in find_groups(map_file, reference.info, candidate.info):
        if not group.reference and not group.rule.stacked(Side.REFERENCE):
            for member in range(len(group.rule.reference)):
                made = group.reference_id(Part(member=member, indices=()))
                names.setdefault(made, []).extend(group.candidate.values())
    return names


def _entries(
    side: Side, lone: dict[TensorId, str], skipped: set[TensorId], info: TraceInfo
) -> tuple[list[IgnoreRule], list[TensorId]]:
    """Entries that leave these tensors out and none that is compared.

    Returns:
        As few entries as can be, and the tensors that none leaves out: those of the
        same name are compared in other steps.
    """
    entries, unmatched = [], []
    left = dict(lone)
    while left:
        tensor_id, reason = next(iter(left.items()))
        for pattern in _patterns(tensor_id):
            entry = IgnoreRule(side=side, pattern=pattern, reason=reason)
            matched = [i for i in info.tensors if entry.matches(i)]
            if tensor_id in matched and all(
                lone.get(i) == reason or i in skipped for i in matched
            ):
                entries.append(entry)
                break
        else:
            unmatched.append(tensor_id)
            matched = [tensor_id]
        left = {i: text for i, text in left.items() if i not in matched}
    return entries, unmatched


def _patterns(tensor_id: TensorId) -> Iterable[str]:
    """Patterns that match a tensor, the widest first."""
    slot = "" if tensor_id.slot is None else "/*"
    yield f"*/{tensor_id.kind}{slot}"
    if tensor_id.kind is Kind.OPTIMIZER_STATE and "." in (tensor_id.slot or ""):
        yield f"*/{tensor_id.kind}/*.{(tensor_id.slot or '').rpartition('.')[2]}"
    name = name_of(tensor_id)
    module, _, rest = name.partition("/")
    numberless = _NUMBER.sub("*", module)
    yield f"{numberless}/*"
    yield f"{numberless}/{tensor_id.kind}{slot}"
    yield f"{numberless}/{rest}"
    yield name
