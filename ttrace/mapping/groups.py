"""Applies the names of a map: which tensors of the two traces belong together."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ttrace.errors import MapError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.mapping.id_index import IdIndex
from ttrace.mapping.names import Binding, NamePattern
from ttrace.mapping.rules import MapFile, TensorRule, listed, other_side

KNOWN_STATES = {"exp_avg": "mu", "exp_avg_sq": "nu", "momentum_buffer": "trace"}
"""What torch's optimizers and optax call the same moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Which of the tensors of a group one is.

    Attributes:
        member: Number in the list of patterns.
        indices: What the stacked placeholders stand for, in the order of their names.
    """

    member: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors of both runs that are made of the same elements.

    Attributes:
        rule: The rule that brings them together.
        key: What its patterns leave open, without stacked placeholders; the name of
            the state as the reference has it.
        reference: The reference's tensors; may be empty.
        candidate: The candidate's; may be empty.
    """

    rule: TensorRule
    key: Binding
    reference: dict[Position, TensorId] = field(default_factory=dict)
    candidate: dict[Position, TensorId] = field(default_factory=dict)

    def reference_id(self, position: Position) -> TensorId:
        """The id of a part of the reference, recorded or not.

        Raises:
            MapError: The rule makes no id of it.
        """
        return self._filled(Side.REFERENCE, position, self.key)

    def candidate_id(self, position: Position, state: str | None) -> TensorId:
        """The id of a part of the candidate, recorded or not.

        Raises:
            MapError: The rule makes no id of it.
        """
        return self._filled(Side.CANDIDATE, position, replace(self.key, state=state))

    def _filled(self, side: Side, position: Position, key: Binding) -> TensorId:
        stacked = zip(self.rule.stacked(side), map(str, position.indices), strict=True)
        pattern = self.rule.patterns(side)[position.member]
        try:
            return pattern.fill(replace(key, values=(*key.values, *stacked)))
        except ValueError as error:
            raise MapError(
                "what a rule matched does not make a tensor id",
                where=self.rule.place,
                expected="numbers where the pattern has a call, names elsewhere",
                got=f"{pattern} with "
                + ", ".join(f"{name} = {value}" for name, value in key.values),
                remedy="correct the placeholders of the rule",
            ) from error


class StateNames:
    """Translates names of optimizers' states between the two sides."""

    def __init__(self, map_file: MapFile, reference: TraceInfo):
        self._given = {name: own for own, name in map_file.states.items()}
        self._of_candidate = dict(map_file.states)
        self._known = {
            state
            for tensor_id in (*reference.tensors, *reference.skipped)
            if tensor_id.kind is Kind.OPTIMIZER_STATE
            # A dot may be a part of the parameter's name, or of the state's.
            for state in (
                (tensor_id.slot or "").partition(".")[2],
                (tensor_id.slot or "").rpartition(".")[2],
            )
        }

    def in_reference(self, name: str) -> str:
        """What the reference calls a state of the candidate.

        The map says so; or it has the same name there, or that of the same moment.
        """
        if name in self._given or name in self._known:
            return self._given.get(name, name)
        for torch_name, optax_name in KNOWN_STATES.items():
            pair = (torch_name, optax_name)
            if name in pair:
                (other,) = set(pair) - {name}
                return other if other in self._known else name
        return name

    def id_in_reference(self, tensor_id: TensorId) -> TensorId:
        """What the reference calls a tensor of the candidate that no rule names.

        Its own name, but for the state's of a parameter that has the same path in both.
        """
        parameter, dot, state = (tensor_id.slot or "").rpartition(".")
        if tensor_id.kind is not Kind.OPTIMIZER_STATE or not dot:
            return tensor_id
        return replace(tensor_id, slot=f"{parameter}.{self.in_reference(state)}")

    def ids_in_candidate(self, tensor_id: TensorId) -> tuple[TensorId, ...]:
        """What the candidate may call a tensor of the reference that no rule names."""
        parameter, dot, state = (tensor_id.slot or "").rpartition(".")
        if tensor_id.kind is not Kind.OPTIMIZER_STATE or not dot:
            return (tensor_id,)
        return tuple(
            replace(tensor_id, slot=f"{parameter}.{name}")
            for name in self.in_candidate(state)
        )

    def in_candidate(self, name: str) -> tuple[str, ...]:
        """What the candidate may call a state of the reference."""
        names = {self._of_candidate.get(name, name)}
        for pair in KNOWN_STATES.items():
            if name in pair:
                names |= set(pair)
        return tuple(sorted(names))


def find_groups(
    map_file: MapFile, reference: TraceInfo, candidate: TraceInfo
) -> list[Group]:
    """Groups the tensors, recorded and skipped, that rules match.

    A rule may match in one run only: a module that is gone is a finding, of which the
    comparison tells. Of several patterns that match a tensor the one counts that says
    most of its name: ``layer_norm`` is no ``layer_{i}`` where it has a rule of its own.

    Raises:
        MapError: A rule matches nothing in either run, for no filter's sake, or two
            rules match the same tensor of the candidate.
    """
    states = StateNames(map_file, reference)
    ids = {
        Side.REFERENCE: IdIndex(_ids(reference)),
        Side.CANDIDATE: IdIndex(_ids(candidate)),
    }
    renamed: dict[Side, Callable[[str], str]] = {
        Side.REFERENCE: lambda name: name,
        Side.CANDIDATE: states.in_reference,
    }
    matched = [
        {side: list(_matches(rule, side, ids[side], renamed[side])) for side in Side}
        for rule in map_file.rules
    ]
    named = {
        side: _most_of_name(side, map_file.rules, [each[side] for each in matched])
        for side in Side
    }
    groups: list[Group] = []
    owner: dict[TensorId, TensorRule] = {}
    for rule, of_rule in zip(map_file.rules, matched, strict=True):
        found: dict[Binding, Group] = {}
        for side in Side:
            for tensor_id, position, key in of_rule[side]:
                pattern = rule.patterns(side)[position.member]
                if pattern.num_literals < named[side][tensor_id][0]:
                    continue
                group = found.setdefault(key, Group(rule=rule, key=key))
                tensors = group.reference if side is Side.REFERENCE else group.candidate
                if side is Side.CANDIDATE and tensor_id in owner:
                    raise _matched_twice(tensor_id, owner[tensor_id], rule)
                if side is Side.CANDIDATE:
                    owner[tensor_id] = rule
                tensors[position] = tensor_id
        if not found:
            for tensor_id, _, _ in of_rule[Side.CANDIDATE]:
                other = named[Side.CANDIDATE][tensor_id][1]
                raise _matched_twice(tensor_id, other, rule)
        groups += found.values()
        _check_matched(rule, list(found.values()), ids, reference, candidate)
    return groups


_Match = tuple[TensorId, Position, Binding]


def _most_of_name(
    side: Side, rules: Iterable[TensorRule], matched: Iterable[Iterable[_Match]]
) -> dict[TensorId, tuple[int, TensorRule]]:
    """Of each tensor, how much of its name a pattern says at most, and the rule."""
    most: dict[TensorId, tuple[int, TensorRule]] = {}
    for rule, of_rule in zip(rules, matched, strict=True):
        for tensor_id, position, _ in of_rule:
            number = rule.patterns(side)[position.member].num_literals
            if tensor_id not in most or most[tensor_id][0] < number:
                most[tensor_id] = (number, rule)
    return most


def _ids(info: TraceInfo) -> tuple[TensorId, ...]:
    return tuple(dict.fromkeys((*info.tensors, *info.skipped)))


def _matches(
    rule: TensorRule,
    side: Side,
    ids: IdIndex,
    state_in_reference: Callable[[str], str],
) -> Iterable[_Match]:
    stacked = rule.stacked(side)
    for member, pattern in enumerate(rule.patterns(side)):
        for tensor_id in ids.that_may_match(pattern):
            if rule.kinds is not None and tensor_id.kind not in rule.kinds:
                continue
            binding = pattern.match(tensor_id)
            if binding is None:
                continue
            values = [binding.value(name) for name in stacked]
            if not all(value.isdecimal() for value in values):
                continue
            state = binding.state
            if state is not None:
                state = state_in_reference(state)
            key = replace(binding, values=binding.without(stacked), state=state)
            yield (
                tensor_id,
                Position(member=member, indices=tuple(map(int, values))),
                key,
            )


def _check_matched(
    rule: TensorRule,
    groups: Iterable[Group],
    ids: Mapping[Side, Iterable[TensorId]],
    reference: TraceInfo,
    candidate: TraceInfo,
) -> None:
    infos = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    if any(group.reference or group.candidate for group in groups) or not all(
        _could_match(rule, side, ids[side], infos[side]) for side in Side
    ):
        return
    if all(_any_match(rule.patterns(side), ids[other_side(side)]) for side in Side):
        raise MapError(
            "the map's sides are swapped: the reference has the tensors of the "
            "candidate's patterns, and the candidate those of the reference's",
            where=rule.place,
            got=f"{rule.reference[0]} in the candidate",
            remedy="exchange the two traces, or make the map again with 'ttrace map'",
        )
    raise MapError(
        "a rule matches nothing in either run",
        where=rule.place,
        expected=" or ".join(map(str, (*rule.reference, *rule.candidate)))
        + (f", of kind {listed(rule.kinds)}" if rule.kinds else ""),
        got="; ".join(
            f"in the {side} {_nearest(rule.patterns(side)[0], ids[side])}"
            for side in Side
        ),
        remedy="correct the patterns, or take the rule out; 'ttrace show' lists the "
        "ids of a trace",
    )


def _could_match(
    rule: TensorRule, side: Side, ids: Iterable[TensorId], info: TraceInfo
) -> bool:
    """Whether the trace is one in which the rule should match."""
    capture = dict(info.ranks[0].capture)
    if {"modules", "ranks"} & capture.keys():
        return False  # which names are left out, patterns with placeholders cannot tell
    kinds = {p.kind for p in rule.patterns(side) if p.kind is not None}
    wanted = kinds or set(rule.kinds or Kind)
    if not any(map(CaptureFilter.from_json(capture).wants_kind, wanted)):
        return False
    if "kinds" in capture and not kinds and rule.kinds is None:
        return False
    return any(tensor_id.kind in wanted for tensor_id in ids)


def _any_match(patterns: Iterable[NamePattern], ids: Iterable[TensorId]) -> bool:
    return any(
        pattern.match(tensor_id) is not None
        for pattern in patterns
        for tensor_id in ids
    )


def _nearest(pattern: NamePattern, ids: Iterable[TensorId]) -> str:
    """The id that has most in common with a pattern's text, as a hint."""
    words = set(str(pattern).replace("/", ".").split("."))
    best = max(
        ids,
        key=lambda id_: len(words & set(str(id_).replace("/", ".").split("."))),
        default=None,
    )
    return "nothing at all" if best is None else f"for example {best}"


def _matched_twice(
    tensor_id: TensorId, first: TensorRule, second: TensorRule
) -> MapError:
    return MapError(
        "a tensor of the candidate is matched twice",
        where=f"{first.place} and {second.place}",
        expected="one rule, and one pattern of it",
        got=tensor_id,
        remedy="make one of the patterns narrower, or limit its kinds",
    )
