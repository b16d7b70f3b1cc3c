"""Matches the tensors of two traces by identity; touches no array and no block."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ttrace.compare.extents import Extent
from ttrace.compare.ways_of_computing import (
    collectives_set_aside,
    operations_set_aside,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import ACTIVATIONS, NEEDS_AUTOGRAD, OPTIONAL, Kind
from ttrace.ir.side import Side
from ttrace.ir.skipped_step import (
    UPDATE_KINDS,
    skipped_step_id,
    skipped_steps,
)
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.store.order import merge_orders


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A logical tensor that both runs recorded.

    Attributes:
        id: The candidate's id of it (a recomputation keeps its own).
        reference: The reference's shards.
        candidate: The candidate's shards.
    """

    id: TensorId
    reference: TensorRecord
    candidate: TensorRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A logical tensor that only one run recorded, for no known reason.

    Attributes:
        id: Its identity.
        present: The run that has it.
        reason: What is known of its absence from the other one; empty if nothing is.
        beyond: The step, or micro-batch, that it is of, where the other run has nothing
            of that; else empty.
    """

    id: TensorId
    present: Side
    reason: str = ""
    beyond: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A logical tensor that is not compared, with the reason.

    Attributes:
        id: Its identity.
        reason: One sentence for the report.
    """

    id: TensorId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSidedSkip:
    """A step that the optimizer skipped in one run, and not in the other.

    Attributes:
        id: Stands for the gradients of the step.
        side: The run that skipped it.
        reason: Why it did.
    """

    id: TensorId
    side: Side
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenOtherwise:
    """A step of which the two runs were not given the same samples.

    Attributes:
        id: An input of the model, which stands for them all.
        reason: What differs.
    """

    id: TensorId
    reason: str


Entry = Match | Unmatched | Skipped | OneSidedSkip | GivenOtherwise
"""What became of one tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Every tensor of either trace, once; indices of rows are layouts, not tensors.

    Attributes:
        entries: In order of the dataflow: that of the reference, each tensor that
            only the candidate has right behind its predecessor there (see
            ``ttrace.store.order``).
    """

    entries: tuple[Entry, ...]

    @property
    def matches(self) -> tuple[Match, ...]:
        """The tensors that can be compared."""
        return tuple(entry for entry in self.entries if isinstance(entry, Match))


def align(
    reference: TraceInfo,
    candidate: TraceInfo,
    *,
    set_aside: Mapping[TensorId, str] | None = None,
    given_otherwise: Mapping[TensorId, str] | None = None,
) -> Alignment:
    """Finds the counterpart of every tensor.

    Gradients of a step that both runs skipped are not compared. A recomputed forward
    has no counterpart in a reference that does not recompute: it is matched with the
    reference's first forward, which it must repeat.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        set_aside: Tensors that are not to be compared, with the reason.
        given_otherwise: Inputs of steps of which the runs were not given the same
            samples, with what differs.
    """
    runs = (_Run(Side.REFERENCE, reference), _Run(Side.CANDIDATE, candidate))
    order = merge_orders(run.order() for run in runs)
    set_aside = {
        **(set_aside or {}),
        **collectives_set_aside(reference, candidate),
        **operations_set_aside(reference, candidate),
    }
    return Alignment(
        entries=tuple(
            _known_entry(tensor_id, set_aside, given_otherwise or {})
            or _align_one(tensor_id, *runs)
            for tensor_id in order
            if not tensor_id.is_index
        )
    )


def _known_entry(
    tensor_id: TensorId,
    set_aside: Mapping[TensorId, str],
    given_otherwise: Mapping[TensorId, str],
) -> Entry | None:
    if tensor_id in given_otherwise:
        return GivenOtherwise(id=tensor_id, reason=given_otherwise[tensor_id])
    if tensor_id in set_aside:
        return Skipped(id=tensor_id, reason=set_aside[tensor_id])
    return None


class _Run:
    """One of the two runs, with what explains the absence of a tensor from it."""

    def __init__(self, side: Side, info: TraceInfo):
        self.side = side
        self.info = info
        self.skipped_steps = skipped_steps(info)
        self._filter = CaptureFilter.from_json(dict(info.ranks[0].capture))
        self.extent = Extent(info)
        self._calls: frozenset[TensorId] | None = None
        self._kinds: frozenset[Kind] | None = None
        self._inputs: dict[TensorId, TensorId] | None = None

    def order(self) -> list[TensorId]:
        """Recorded and skipped ids, in order of capture."""
        by_rank: dict[int, list[tuple[int, TensorId]]] = {}
        for record in self.info.tensors.values():
            for shard in record.shards:
                by_rank.setdefault(shard.rank, []).append((shard.sequence, record.id))
        for skipped in self.info.skipped.values():
            by_rank.setdefault(skipped.rank, []).append((skipped.sequence, skipped.id))
        return merge_orders(
            [tensor_id for _, tensor_id in sorted(by_rank[rank], key=lambda x: x[0])]
            for rank in sorted(by_rank)
        )

    def absence_reason(self, tensor_id: TensorId) -> str | None:
        """Why the run did not record a tensor, or None if nothing explains it."""
        # An activation's skip without slot stands for all tensors of all calls.
        all_calls = replace(tensor_id, slot=None, call=0, pass_=Pass.FORWARD)
        if tensor_id in self.info.skipped:
            skipped = self.info.skipped[tensor_id]
            reason = skipped.reason
            if skipped.came_twice:  # a remark says once why that may be
                reason = reason.partition(".")[0]
        elif tensor_id.kind in ACTIVATIONS and all_calls in self.info.skipped:
            reason = self.info.skipped[all_calls].reason
        elif tensor_id.kind in UPDATE_KINDS and tensor_id.step in self.skipped_steps:
            reason = self.skipped_steps[tensor_id.step]
        elif not self._filter.wants(tensor_id):
            reason = "left out by a capture filter"
        elif is_rank_filtered(self.info):
            reason = "not held by the ranks that were recorded"
        else:
            return None
        return f"{self.side}: {reason}"

    @property
    def framework(self) -> str:
        """The frontend that recorded the run."""
        return self.info.ranks[0].framework

    def has_kind(self, kind: Kind) -> bool:
        """Whether the run recorded, or skipped, any tensor of a kind."""
        ids = (*self.info.tensors, *self.info.skipped)
        return any(id_.kind is kind for id_ in ids)

    def makes_call_of(self, tensor_id: TensorId) -> bool:
        """Whether the run recorded, or skipped, what the call of a module returned.

        Of the model itself, what it was given will do: plain JAX has no more.
        """
        if self._calls is None:
            self._calls = frozenset(
                replace(id_, slot=None, kind=Kind.OUTPUT)
                for id_ in (*self.info.tensors, *self.info.skipped)
                if id_.kind is Kind.OUTPUT
                or (id_.kind is Kind.INPUT and id_.module == ROOT_MODULE)
            )
        return replace(tensor_id, kind=Kind.OUTPUT, slot=None) in self._calls

    def input_of_another_call(self, tensor_id: TensorId) -> TensorId | None:
        """The same input of another call, or recomputation, of a module, if recorded.

        What does not change from call to call may be recorded once.
        """
        if self._inputs is None:
            self._inputs = {}
            for id_ in self.info.tensors:
                if id_.kind is Kind.INPUT:
                    name = replace(id_, call=0, pass_=Pass.FORWARD)
                    self._inputs.setdefault(name, id_)
        return self._inputs.get(replace(tensor_id, call=0, pass_=Pass.FORWARD))

    def is_without_gradient(self, tensor_id: TensorId) -> bool:
        """Whether an input that the run recorded is known to have no gradient.

        A run that has no gradient of any input is not known to want one of its data.
        """
        (shard, *_) = self.info.tensors[tensor_id].shards
        if dtype_named(shard.dtype).epsilon is None:
            return True
        if self._kinds is None:
            ids = (*self.info.tensors, *self.info.skipped)
            self._kinds = frozenset(id_.kind for id_ in ids)
        gradient = replace(tensor_id, kind=Kind.GRAD_INPUT)
        return (
            self._filter.wants(gradient)
            and gradient not in self.info.tensors
            and gradient not in self.info.skipped
            and (Kind.GRAD_INPUT in self._kinds or tensor_id.module == ROOT_MODULE)
        )

    def has_step(self, step: int) -> bool:
        """Whether the run recorded the step."""
        return self._filter.wants_step(step)


def _align_one(tensor_id: TensorId, reference: _Run, candidate: _Run) -> Entry:
    skips = {
        run.side: run.skipped_steps[tensor_id.step]
        for run in (reference, candidate)
        if tensor_id.step in run.skipped_steps
    }
    if len(skips) == 2 and tensor_id.kind in NEEDS_AUTOGRAD:
        reasons = dict.fromkeys(skips.values())
        return Skipped(id=tensor_id, reason="; ".join(reasons))
    if skips and tensor_id == skipped_step_id(tensor_id.step):
        ((side, reason),) = skips.items()
        other = candidate if side is Side.REFERENCE else reference
        if not other.has_step(tensor_id.step):
            return Skipped(id=tensor_id, reason=f"{side}: {reason}")
        return OneSidedSkip(id=tensor_id, side=side, reason=reason)
    of_reference = reference.info.tensors.get(tensor_id)
    of_candidate = candidate.info.tensors.get(tensor_id)
    reason = None
    if of_reference is None:
        reason = reference.absence_reason(tensor_id)
        if tensor_id.pass_ is Pass.RECOMPUTE:
            first_forward = replace(tensor_id, pass_=Pass.FORWARD)
            of_reference = reference.info.tensors.get(first_forward)
            reason = reason or reference.absence_reason(first_forward)
    if of_reference is not None and of_candidate is not None:
        return Match(id=tensor_id, reference=of_reference, candidate=of_candidate)
    if reason is None and of_candidate is None:
        reason = candidate.absence_reason(tensor_id)
        if reason is None and tensor_id.pass_ is Pass.RECOMPUTE:
            reason = "recomputed in the reference only; nothing to check"
    if reason is not None:
        return Skipped(id=tensor_id, reason=reason)
    has, lacks = (
        (candidate, reference) if of_reference is None else (reference, candidate)
    )
    if (
        tensor_id.kind is Kind.INPUT
        and lacks.makes_call_of(tensor_id)
        and has.is_without_gradient(tensor_id)
    ):
        elsewhere = lacks.input_of_another_call(tensor_id)
        if elsewhere is not None:
            return Skipped(
                id=tensor_id,
                reason=f"{has.side} only: an input without gradient, such as a mask, "
                f"which the {lacks.side} has of other calls only, such as {elsewhere}",
            )
        return Skipped(
            id=tensor_id,
            reason=f"{has.side} only: an input without gradient, such as a mask, that "
            f"the {lacks.side} does not give this module",
        )
    if (
        tensor_id.kind in OPTIONAL
        and has.framework != lacks.framework
        and not lacks.has_kind(tensor_id.kind)
    ):
        return Skipped(
            id=tensor_id,
            reason=f"{lacks.side}: this run of {lacks.framework} recorded no "
            f"{tensor_id.kind} at all",
        )
    if tensor_id.kind is Kind.LEARNING_RATE and has.framework != lacks.framework:
        return Skipped(
            id=tensor_id,
            reason=f"the optimizer of the {lacks.side} has no such group of parameters",
        )
    beyond = lacks.extent.lacks(tensor_id)
    return Unmatched(
        id=tensor_id,
        present=has.side,
        reason=f"the {lacks.side} has no {beyond}" if beyond else "",
        beyond=beyond,
    )


def is_rank_filtered(info: TraceInfo) -> bool:
    """Whether some ranks of the run were left out on purpose."""
    return len(info.ranks) < info.ranks[0].world_size
