"""Parameters that one run ties, and of which the other has a copy in two places.

A model on one process has one tensor for its embedding and its head. Two stages of a
pipeline have one each, and their script sums up the gradients. That it is one parameter
shows in the runs themselves: the two begin bit for bit equal, and the other run has no
parameter of the second name, although it runs the module. Where one rank has both, as
the first and last stage of a schedule in the form of a V, they must be given equal
gradients, too: else it is a model that should be tied and is not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ttrace.compare.assembled import assembled
from ttrace.compare.shown_trace import (
    Combined,
    ShardKey,
    ShownTrace,
    shard_key,
)
from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

_OF_STEPS = frozenset(
    {
        Kind.PARAM,
        Kind.MAIN_GRAD,
        Kind.CLIPPED_GRAD,
        Kind.OPTIMIZER_STATE,
        Kind.UPDATED_PARAM,
        Kind.WRITTEN_PARAM,
    }
)
"""Kinds of which each copy has what the one parameter has; of ``param_grad`` it has
what its own place adds."""

Name = tuple[str, str]
"""Module and slot of a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Untied:
    """Two runs that have the same parameters, as far as that can be had.

    Attributes:
        reference: The reference; where it ties parameters that the candidate copies,
            with the copies.
        candidate: The candidate, likewise.
        copies: What is shown of the reference under another id, too: the id that it
            was recorded under.
        set_aside: Why a tensor is not compared.
        note: Sentences for the headline; empty where nothing was found.
        copies_apart: Copies that no rank has together with what they are copies of.
        separate: Copies that are parameters of their own, in the run that has them.
    """

    reference: TraceSource
    candidate: TraceSource
    copies: Mapping[TensorId, TensorId] = field(default_factory=dict)
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)
    note: str = ""
    copies_apart: tuple["Copy", ...] = ()
    separate: tuple["Copy", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A parameter that begins bit for bit as another one of its run.

    The other run has one parameter for both.

    Attributes:
        side: The run that has two.
        name: Of the one that only this run has.
        original: Of the one that both runs have.
    """

    side: Side
    name: Name
    original: Name


def untie(reference: TraceSource, candidate: TraceSource) -> Untied:
    """Finds parameters that one run ties and the other one copies.

    Reads initial parameters, where only one of the runs has one.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    copies: dict[TensorId, TensorId] = {}
    set_aside: dict[TensorId, str] = {}
    notes: list[str] = []
    apart: list[Copy] = []
    separate: list[Copy] = []
    for side, other in (tuple(runs), tuple(reversed(runs))):
        for copy, original in _copies(runs[side], runs[other]):
            found = Copy(side=side, name=copy, original=original)
            own = _parameters(runs[side].info)
            if _lie_apart(own[copy], own[original]):
                apart.append(found)
            elif not _have_equal_gradients(runs[side], copy, original):
                separate.append(found)
                continue
            aliases = dict(_aliases(runs[other].info, copy, original))
            tensors = dict(runs[other].info.tensors)
            for id_, recorded in aliases.items():
                tensors[id_] = replace(tensors[recorded], id=id_)
            info = replace(runs[other].info, tensors=tensors)
            runs[other] = ShownTrace(runs[other], info)
            if other is Side.REFERENCE:
                copies |= aliases
            summed, aside = _with_sums(runs[side], copy, original, side)
            runs[side] = summed
            set_aside |= aside
            notes.append(
                f"{_text(copy)} of the {side} begins as a copy of its "
                f"{_text(original)}, and the {other} has none: both are compared "
                f"with {_text(original)} of the {other}, and of param_grad their sum."
            )
    return Untied(
        reference=runs[Side.REFERENCE],
        candidate=runs[Side.CANDIDATE],
        copies=copies,
        set_aside=set_aside,
        note=" ".join(notes),
        copies_apart=tuple(apart),
        separate=tuple(separate),
    )


def _text(name: Name) -> str:
    return ".".join(name)


def _copies(run: TraceSource, other: TraceSource) -> list[tuple[Name, Name]]:
    """Parameters that only a run has, each with the one that it is a copy of."""
    own, others = _parameters(run.info), _parameters(other.info)
    active = {id_.module for id_ in other.info.tensors if id_.kind in ACTIVATIONS}
    found = []
    for name, record in own.items():
        if name in others or name[0] not in active:
            continue
        like = [
            (twin, twins)
            for twin, twins in own.items()
            if twin in others
            and twins.global_shape == record.global_shape
            and others[twin].global_shape == record.global_shape
            and twins.shards[0].dtype == record.shards[0].dtype
        ]
        values = assembled(record, run) if like else None
        if values is None or not values.size or (values == values.flat[0]).all():
            continue  # what is constant equals others by chance
        same = [
            twin
            for twin, twins in like
            if (others_values := assembled(twins, run)) is not None
            and others_values.tobytes() == values.tobytes()
        ]
        if len(same) == 1:
            found.append((name, same[0]))
    return found


def _lie_apart(first: TensorRecord, second: TensorRecord) -> bool:
    """Whether no rank has both."""
    ranks = {shard.rank for shard in first.shards}
    return ranks.isdisjoint(shard.rank for shard in second.shards)


def _have_equal_gradients(run: TraceSource, first: Name, second: Name) -> bool:
    """Whether the optimizer is given the same for both in the first recorded step."""
    found = []
    for name in (first, second):
        records = [
            record
            for id_, record in run.info.tensors.items()
            if id_.kind is Kind.MAIN_GRAD and (id_.module, id_.slot) == name
        ]
        earliest = min(records, key=lambda record: record.id.step, default=None)
        values = None if earliest is None else assembled(earliest, run)
        if values is None:
            return False
        found.append(values.tobytes())
    return found[0] == found[1]


def _parameters(info: TraceInfo) -> dict[Name, TensorRecord]:
    return {
        (id_.module, id_.slot or ""): record
        for id_, record in info.tensors.items()
        if id_.kind is Kind.PARAM
    }


def _aliases(
    info: TraceInfo, copy: Name, original: Name
) -> Iterator[tuple[TensorId, TensorId]]:
    """What the copy has of the kinds of a step, and what the original has."""
    module, parameter = original
    for id_ in info.tensors:
        if id_.module != module or id_.kind not in _OF_STEPS or id_.slot is None:
            continue
        name, dot, state = id_.slot.partition(".")
        if name == parameter and bool(dot) == (id_.kind is Kind.OPTIMIZER_STATE):
            yield replace(id_, module=copy[0], slot=f"{copy[1]}{dot}{state}"), id_


def _with_sums(
    run: TraceSource, copy: Name, original: Name, side: Side
) -> tuple[TraceSource, dict[TensorId, str]]:
    """The run with the sum of both gradients of every micro-batch, under one name.

    Returns:
        The run, and why a gradient cannot be summed up.
    """
    tensors = dict(run.info.tensors)
    combined: dict[ShardKey, Combined] = {}
    aside: dict[TensorId, str] = {}
    for id_ in list(tensors):
        if id_.kind is not Kind.PARAM_GRAD or (id_.module, id_.slot) != copy:
            continue
        total = replace(id_, module=original[0], slot=original[1])
        parts = (tensors.pop(id_), tensors.get(total))
        if parts[1] is not None and _fit(parts[0], parts[1]):
            (shard,) = parts[1].shards
            both = (shard, parts[0].shards[0])
            combined[shard_key(shard)] = Combined(shards=both)
        else:
            aside[total] = (
                f"{side}: {_text(copy)} is a copy of it, and what the two have of its "
                "gradient cannot be summed up, as it is not recorded whole by one rank "
                "for each"
            )
    info = replace(run.info, tensors=tensors)
    return ShownTrace(run, info, combined=combined), aside


def _fit(first: TensorRecord, second: TensorRecord) -> bool:
    if len(first.shards) != 1 or len(second.shards) != 1:
        return False
    one, other = first.shards[0], second.shards[0]
    return (
        one.layout.blocks == other.layout.blocks
        and one.layout.local_shape == other.layout.local_shape
        and one.layout.partial_axes == other.layout.partial_axes == ()
        and one.scale == other.scale
        and one.dtype == other.dtype
    )
