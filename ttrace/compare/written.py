"""Parameters that only one run's script writes to after the optimizer's step.

The other run leaves them as they were, which is what it ends the step with: both have
one, and they are compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ttrace.compare.extents import Extent
from ttrace.compare.shown_trace import ShownTrace
from ttrace.ir.kinds import Kind
from ttrace.ir.optimizer_settings import NO_OPTIMIZER, OPTIMIZER
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

_ONLY_UPDATES = frozenset({"megatron"})
"""Frameworks whose traces have what the optimizer leaves, and nothing after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenInBoth:
    """Two runs that both have what either script writes to.

    Attributes:
        reference: The reference; of what only the candidate writes to, with what it
            ends the step with.
        candidate: The candidate, likewise.
        copies: What is shown of the reference under another id, too: the id that it
            was recorded under.
        set_aside: Why a tensor is not compared.
    """

    reference: TraceSource
    candidate: TraceSource
    copies: Mapping[TensorId, TensorId] = field(default_factory=dict)
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)


def written_in_both(reference: TraceSource, candidate: TraceSource) -> WrittenInBoth:
    """Shows of each run what it ends a step with, where the other one writes to it."""
    runs = {
        Side.REFERENCE: _completed(reference),
        Side.CANDIDATE: _completed(candidate),
    }
    copies: dict[TensorId, TensorId] = {}
    set_aside: dict[TensorId, str] = {}
    for side, other in (tuple(Side), tuple(reversed(Side))):
        written, info = runs[side].info, runs[other].info
        lacking = [
            id_
            for id_ in written.tensors
            if id_.kind is Kind.WRITTEN_PARAM
            and id_ not in info.tensors
            and id_ not in info.skipped
        ]
        if not lacking or info.is_checkpoint:
            continue
        if not _is_followed(info):
            reason = (
                f"{side}: its script writes to the parameter after the optimizer's "
                f"step, and the trace of the {other} does not tell what that run ends "
                "the step with"
            )
            set_aside |= dict.fromkeys(lacking, reason)
            continue
        steps = Extent(info).microbatches
        tensors = dict(info.tensors)
        latest = _Latest(info)
        for id_ in lacking:
            left = latest.of(id_) if id_.step in steps else None
            if left is not None:
                tensors[id_] = replace(info.tensors[left], id=id_)
                if other is Side.REFERENCE:
                    copies[id_] = left
        runs[other] = ShownTrace(runs[other], replace(info, tensors=tensors))
    return WrittenInBoth(
        reference=runs[Side.REFERENCE],
        candidate=runs[Side.CANDIDATE],
        copies=copies,
        set_aside=set_aside,
    )


def _completed(run: TraceSource) -> TraceSource:
    """The run with all of what was written to, where some ranks' part was not.

    Each rank records what it sees to have changed of its own: of a matrix that is
    clamped, some shards may be within the limits.
    """
    info = run.info
    latest = _Latest(info)
    tensors: dict[TensorId, TensorRecord] = {}
    for id_, record in info.tensors.items():
        if id_.kind is not Kind.WRITTEN_PARAM:
            continue
        ranks = {shard.rank for shard in record.shards}
        before = latest.of(id_, before_it=True)
        left = () if before is None else info.tensors[before].shards
        lacking = [shard for shard in left if shard.rank not in ranks]
        if lacking:
            shards = sorted((*record.shards, *lacking), key=lambda shard: shard.rank)
            tensors[id_] = replace(record, shards=tuple(shards))
    if not tensors:
        return run
    return ShownTrace(run, replace(info, tensors={**info.tensors, **tensors}))


def _is_followed(info: TraceInfo) -> bool:
    """Whether a trace has all parameters that a step changes, as it ends."""
    rank = info.ranks[0]
    has_optimizer = rank.settings.get(OPTIMIZER) != NO_OPTIMIZER
    return rank.framework not in _ONLY_UPDATES and has_optimizer


class _Latest:
    """What a run has recorded of its parameters, in order.

    Args:
        info: The run.
    """

    def __init__(self, info: TraceInfo):
        self._recorded: dict[tuple[str, str | None], list[TensorId]] = {}
        for id_ in info.tensors:
            if id_.kind in _ORDER:
                self._recorded.setdefault((id_.module, id_.slot), []).append(id_)

    def of(self, written: TensorId, *, before_it: bool = False) -> TensorId | None:
        """The last that there is when a step ends; None where there is nothing.

        Args:
            written: What the step ends with, in whichever run.
            before_it: Itself is not meant.
        """
        found = self._recorded.get((written.module, written.slot), ())
        return max(
            (
                id_
                for id_ in found
                if id_.step <= written.step and not (before_it and id_ == written)
            ),
            key=lambda id_: (id_.step, _ORDER.index(id_.kind), id_.call),
            default=None,
        )


_ORDER = (Kind.PARAM, Kind.UPDATED_PARAM, Kind.WRITTEN_PARAM)
"""What there is of a parameter in a step, in order."""
