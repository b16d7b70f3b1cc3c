"""Learning rates of two runs, set against each other by the parameters they train.

Groups of parameters have numbers, and the same parameters may be in groups of other
numbers: behind an empty one, in another order, in two groups for one. So each group of
the reference is compared with the groups of the candidate that hold its parameters, and
of several with the one whose rate is furthest from its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.shown_trace import ShownTrace
from ttrace.ir.kinds import Kind
from ttrace.ir.parameter_groups import Name, groups_in
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

_Groups = Mapping[str, frozenset[Name] | None]
"""What each group holds; None of a group that holds all that is trained."""

_Rates = Mapping[int, Mapping[str, TensorRecord]]
"""Learning rates by step and group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatesByParameter:
    """The candidate, with its learning rates under the reference's groups.

    Attributes:
        candidate: The candidate.
        set_aside: Why a learning rate is not compared.
    """

    candidate: TraceSource
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)


def rates_by_parameter(
    reference: TraceSource, candidate: TraceSource, *, is_mapped: bool = False
) -> RatesByParameter:
    """Finds which groups hold the same parameters.

    Reads learning rates, where the groups are not those of the same numbers.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        is_mapped: The runs call their parameters otherwise. Then groups are compared by
            number, unless each run has a single one with parameters.

    Raises:
        CorruptTraceError: The bytes of a learning rate are not those that were written.
    """
    unchanged = RatesByParameter(candidate=candidate)
    theirs, ours = _rates(reference.info), _rates(candidate.info)
    counterparts = _counterparts(
        reference.info, theirs, candidate.info, ours, is_mapped=is_mapped
    )
    if all(groups == (group,) for group, groups in counterparts.items()):
        return unchanged
    tensors = dict(candidate.info.tensors)
    set_aside: dict[TensorId, str] = {}
    for step, of_step in ours.items():
        for record in of_step.values():
            del tensors[record.id]
        of_reference = theirs.get(step, {})
        compared = set()
        for group, record in of_reference.items():
            found = [of_step[g] for g in counterparts.get(group, ()) if g in of_step]
            if found:
                rate = _values(reference, record)[0]
                furthest = max(found, key=lambda r: _distance(candidate, r, rate))
                tensors[record.id] = replace(furthest, id=record.id)
                compared.add(furthest.id)
        for group, record in of_step.items():
            if record.id in compared:
                continue
            id_ = record.id
            if group in of_reference:  # whose group of that number is another one
                id_ = replace(id_, slot=f"candidate.{group}")
            tensors[id_] = replace(record, id=id_)
            beside = [g for g, own in counterparts.items() if group in own]
            if beside:
                set_aside[id_] = (
                    f"candidate: {group} has parameters of {beside[0]} of the "
                    "reference, as another group has, whose rate is not nearer to "
                    "the reference's, and is compared"
                )
    return RatesByParameter(
        candidate=ShownTrace(candidate, replace(candidate.info, tensors=tensors)),
        set_aside=set_aside,
    )


def _rates(info: TraceInfo) -> _Rates:
    found: dict[int, dict[str, TensorRecord]] = {}
    for id_, record in info.tensors.items():
        if id_.kind is Kind.LEARNING_RATE and id_.slot and id_.slot[-1].isdigit():
            found.setdefault(id_.step, {})[id_.slot] = record
    return found


def _counterparts(
    reference: TraceInfo,
    theirs: _Rates,
    candidate: TraceInfo,
    ours: _Rates,
    *,
    is_mapped: bool,
) -> dict[str, tuple[str, ...]]:
    """For each group of the reference, those of the candidate with its parameters."""
    of_reference = _groups(reference, theirs)
    of_candidate = _groups(candidate, ours)
    if len(of_reference) == len(of_candidate) == 1:
        return {next(iter(of_reference)): tuple(of_candidate)}
    if is_mapped or not of_reference or not of_candidate:
        return {}
    if reference.ranks[0].framework != candidate.ranks[0].framework:
        return {}
    return {
        group: tuple(g for g, own in of_candidate.items() if _share(held, own))
        for group, held in of_reference.items()
    }


def _share(a: frozenset[Name] | None, b: frozenset[Name] | None) -> bool:
    return a is None or b is None or not a.isdisjoint(b)


def _groups(info: TraceInfo, rates: _Rates) -> _Groups:
    """The groups that have a learning rate; empty where what they hold is unknown."""
    slots = dict.fromkeys(slot for of_step in rates.values() for slot in of_step)
    held: dict[str, frozenset[Name]] = {}
    for rank in info.ranks:
        for group, names in groups_in(rank.settings).items():
            held[group] = held.get(group, frozenset()) | names
    if not held and len(slots) == 1:
        return dict.fromkeys(slots)
    all_held = [name for names in held.values() for name in names]
    if len(all_held) != len(set(all_held)):
        return {}  # ranks number their groups otherwise, or groups change
    if any(slot not in held for slot in slots):
        return {}
    return {slot: held[slot] for slot in slots if held[slot]}


def _distance(source: TraceSource, record: TensorRecord, rate: float) -> float:
    return max(abs(value - rate) for value in _values(source, record))


def _values(source: TraceSource, record: TensorRecord) -> list[float]:
    return [float(np.ravel(source.load(shard))[0]) for shard in record.shards]
