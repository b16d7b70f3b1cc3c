"""Proposes a map for two traces; what has no counterpart is ignored, and said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ttrace.errors import MapError
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.map_proposal.activations import ActivationMatcher
from ttrace.map_proposal.buffers import pair_buffers
from ttrace.map_proposal.contents import Content, read_content
from ttrace.map_proposal.generalization import generalize
from ttrace.map_proposal.ignoring import LeftOut, with_ignored
from ttrace.map_proposal.parameters import ParameterMatcher
from ttrace.map_proposal.reading_order import with_open_orders
from ttrace.map_proposal.roles import with_doubts
from ttrace.map_proposal.structure import match_by_structure
from ttrace.map_proposal.underived import Underived
from ttrace.map_proposal.units import Pairing
from ttrace.mapping.apply import map_traces
from ttrace.mapping.groups import find_groups
from ttrace.mapping.rules import MapFile, TensorRule


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
        underived: What could not be derived for a fault of the search, a line each.
        left_out: What the map ignores, by side and kind of reason.
        dropped: Rules that were found and do not go together with the others.
    """

    map_file: MapFile
    num_parameters: int
    num_by_content: int
    num_by_structure: int
    unmatched: tuple[tuple[Side, TensorId], ...]
    unread: tuple[TensorId, ...]
    underived: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    dropped: tuple[str, ...] = ()


def propose_map(reference: TraceSource, candidate: TraceSource, path: Path) -> Proposal:
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
    underived = Underived()
    dropped: list[str] = []
    matcher = ParameterMatcher(
        contents[Side.REFERENCE], contents[Side.CANDIDATE], underived
    )
    activations = ActivationMatcher(reference, candidate, underived)
    matcher.match()
    match_by_structure(matcher, activations.outputs_agree, activations.places())
    if not matcher.pairings:
        raise MapError(
            "no parameter of one run is found in the other",
            where=f"{reference.name} and {candidate.name}",
            expected="runs that start from the same values, such as a converted "
            "checkpoint or those of ttrace.generate, with kind param recorded",
            got=f"{len(contents[Side.REFERENCE])} and "
            f"{len(contents[Side.CANDIDATE])} parameters, none of them alike",
            remedy="start both runs from the same parameters and record the first step",
        )
    found = with_doubts(matcher.pairings)
    parameters = _checked(_rules(found), reference, candidate, path, dropped)
    groups = find_groups(
        MapFile(path=path, rules=parameters),
        _only_parameters(reference.info),
        _only_parameters(candidate.info),
    )
    activations.match(groups)
    parameters = with_open_orders(parameters, activations.pairings)
    buffers = pair_buffers(groups, reference, candidate)
    rules = _checked(
        (*parameters, *_rules(activations.pairings), *_rules(buffers)),
        reference,
        candidate,
        path,
        dropped,
    )
    ignored = with_ignored(
        MapFile(path=path, rules=rules),
        reference,
        candidate,
        activations.reasons,
    )
    left = len(matcher.left[Side.REFERENCE])
    num_parameters = len(contents[Side.REFERENCE])
    by_content = sum(
        len(group.reference) for group in groups if group.rule.is_by_content
    )
    return Proposal(
        map_file=ignored.map_file,
        num_parameters=num_parameters,
        num_by_content=by_content,
        num_by_structure=num_parameters - left - by_content,
        unmatched=ignored.unmatched,
        left_out=ignored.left_out,
        unread=tuple(unread),
        underived=tuple(underived.notes),
        dropped=tuple(dropped),
    )


def _parameters(trace: TraceSource, unread: list[TensorId]) -> list[Content]:
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
    made = (pairing.to_rule() for pairing in _with_both_kinds(generalize(pairings)))
    rules = [rule for rule in made if rule is not None]
    speaking = [
        pattern
        for rule in rules
        if not _says_nothing(rule)
        for pattern in (*rule.reference, *rule.candidate)
        if pattern.placeholders
    ]
    return [
        rule
        for rule in rules
        if not _says_nothing(rule)
        or any(pattern.covers(own) for pattern in speaking for own in rule.reference)
    ]


def _with_both_kinds(pairings: Iterable[Pairing]) -> list[Pairing]:
    """One pairing for what a module takes and gives, where they are alike."""
    merged: dict[object, Pairing] = {}
    for pairing in pairings:
        key = (
            pairing.reference,
            pairing.candidate,
            str(pairing.transform),
            tuple(pairing.sizes.items()),
            pairing.verified,
        )
        if key in merged and pairing.kinds:
            kinds = (*merged[key].kinds, *pairing.kinds)
            merged[key] = replace(merged[key], kinds=kinds)
        else:
            merged[key] = pairing
    return list(merged.values())


def _says_nothing(rule: TensorRule) -> bool:
    """A tensor that no rule names keeps its name anyway.

    It takes a rule to keep it from another one, such as ``norm`` from ``{i}``.
    """
    return rule.transform is None and rule.reference == rule.candidate


def _checked(
    rules: Sequence[TensorRule],
    reference: TraceSource,
    candidate: TraceSource,
    path: Path,
    dropped: list[str],
) -> tuple[TensorRule, ...]:
    """The rules that can be applied together; a later one gives way.

    Args:
        rules: The most certain ones first.
        reference: The trusted run.
        candidate: The run under test.
        path: Of the map.
        dropped: Is told of those that gave way, and why.
    """
    kept = {f"rule {n}": rule for n, rule in enumerate(rules)}
    while kept:
        numbered = tuple(replace(rule, place=place) for place, rule in kept.items())
        try:
            map_traces(MapFile(path=path, rules=numbered), reference, candidate)
            break
        except MapError as error:
            named = [
                place for place in kept if place in str(error.where).split(" and ")
            ]
            place = named[-1] if named else next(reversed(kept))
            names = (
                ", ".join(map(str, patterns))
                for patterns in (kept[place].reference, kept[place].candidate)
            )
            dropped.append(f"{' with '.join(names)}: {error.what}, got {error.got}")
            del kept[place]
    return tuple(kept.values())
