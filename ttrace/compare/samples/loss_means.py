"""Losses of several micro-batches, against that of one, or of several others.

These have the same samples. They make up the loss of these in a known way only where
each of a run stands for as much of it: as many samples, and as many positions that the
loss counts. Which these are shows in the gradients of what the loss was computed from:
they are zero where it does not count. Then the loss of all is the mean of them, or
their sum where the script adds up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.samples.samples import StepSamples
from ttrace.compare.shown_trace import Combined, ShardKey, shard_key
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource

_MOST_ELEMENTS = 1 << 24
"""Elements of a gradient that is read to see which positions count."""

_NEAR = 0.05
"""Of a loss: a difference above this is none of rounding."""

_NOT_KNOWN = "how the losses of micro-batches make up that of the step is not known"

_INSTEAD = "; the gradients of the step are compared"

NO_LOSS = f"{_NOT_KNOWN}{_INSTEAD}"
"""Why a loss is set aside of which nothing more is known."""

Records = Mapping[TensorId, TensorRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossMeans:
    """What is shown of the losses of a step.

    Attributes:
        shown: By side, the losses that stand for those of all samples of a micro-batch
            of the reference, under its id there.
        combined: By side, what these are made of.
        set_aside: Why a loss, by the reference's id, is not compared.
        how: ``mean`` or ``sum``, of those that are shown and are near.
    """

    shown: Mapping[Side, Mapping[TensorId, TensorRecord]]
    combined: Mapping[Side, Mapping[ShardKey, Combined]]
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)
    how: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Micro-batches of both runs that have the same samples, several of one at least.

    Attributes:
        numbers: By side, ascending.
    """

    numbers: Mapping[Side, tuple[int, ...]]


def loss_means(
    samples: StepSamples,
    runs: Mapping[Side, TraceSource],
    of_step: Mapping[Side, Records],
) -> LossMeans:
    """Finds what the losses of a step are to be compared with.

    Reads losses, and gradients of outputs.

    Args:
        samples: Where the samples of the step are; their places are known.
        runs: Both runs.
        of_step: What they recorded of micro-batches of the step.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    assert samples.places is not None
    counts = {side: _Counts(runs[side], of_step[side]) for side in Side}
    groups = _groups(samples)
    shown: dict[Side, dict[TensorId, TensorRecord]] = {side: {} for side in Side}
    combined: dict[Side, dict[ShardKey, Combined]] = {side: {} for side in Side}
    set_aside: dict[TensorId, str] = {}
    how = set()
    for name in _losses(of_step[Side.REFERENCE]):
        for number in samples.places:
            id_ = replace(name, microbatch=number)
            if id_ not in of_step[Side.REFERENCE] or id_ in set_aside:
                continue
            group = groups.get(number)
            if group is None or id_ in shown[Side.REFERENCE]:
                continue
            records = {
                side: [
                    of_step[side].get(replace(name, microbatch=n))
                    for n in group.numbers[side]
                ]
                for side in Side
            }
            known = {s: [r for r in of if r is not None] for s, of in records.items()}
            reason = _obstacle(samples, group, known, counts)
            ids = [replace(name, microbatch=n) for n in group.numbers[Side.REFERENCE]]
            if reason is not None:
                set_aside |= dict.fromkeys(ids, f"{_NOT_KNOWN}: {reason}{_INSTEAD}")
                continue
            is_mean, is_near = _is_mean(known, runs)
            if is_near:
                how.add("mean" if is_mean else "sum")
            for side, losses in known.items():
                shown[side][ids[0]] = replace(losses[0], id=ids[0])
                if len(losses) == 1:
                    continue
                divisor = len(losses) if is_mean else 1
                for shards in zip(*(record.shards for record in losses), strict=True):
                    whole = Combined(shards=tuple(shards), divisor=divisor)
                    combined[side][shard_key(shards[0])] = whole
            set_aside |= dict.fromkeys(
                ids[1:],
                f"compared together with those of {len(ids)} micro-batches, as "
                f"{ids[0]}",
            )
    return LossMeans(
        shown=shown, combined=combined, set_aside=set_aside, how=frozenset(how)
    )


def _losses(records: Records) -> dict[TensorId, None]:
    """The losses by their ids without micro-batch."""
    return {
        replace(id_, microbatch=None): None for id_ in records if id_.kind is Kind.LOSS
    }


def _groups(samples: StepSamples) -> dict[int, _Group]:
    """The micro-batches that share samples, by each of them of the reference.

    Without those that have the samples of one of the other run, and those of which some
    samples are in no other.
    """
    assert samples.places is not None
    holders: dict[int, list[int]] = {}
    for number, places in samples.places.items():
        for place in dict.fromkeys(place.microbatch for place in places):
            holders.setdefault(place, []).append(number)
    sizes = samples.sizes[Side.CANDIDATE]
    found: dict[int, _Group] = {}
    seen: set[int] = set()
    for number in samples.places:
        if number in seen:
            continue
        theirs, ours, waiting = {number}, set[int](), [number]
        while waiting:
            for place in samples.places[waiting.pop()]:
                if place.microbatch in ours:
                    continue
                ours.add(place.microbatch)
                new = set(holders[place.microbatch]) - theirs
                theirs |= new
                waiting.extend(new)
        seen |= theirs
        num_samples = sum(len(samples.places[n]) for n in theirs)
        is_whole = sum(sizes[n] or 0 for n in ours) == num_samples
        if is_whole and len(ours) + len(theirs) > 2:
            numbers = {
                Side.REFERENCE: tuple(sorted(theirs)),
                Side.CANDIDATE: tuple(sorted(ours)),
            }
            found |= dict.fromkeys(theirs, _Group(numbers=numbers))
    return found


def _obstacle(
    samples: StepSamples,
    group: _Group,
    records: Mapping[Side, Sequence[TensorRecord]],
    counts: Mapping[Side, "_Counts"],
) -> str | None:
    """Why the mean of losses may not be the loss of all, or None."""
    for side in Side:
        if len(records[side]) != len(group.numbers[side]):
            return f"a loss of the {side} was not recorded"
        for record in records[side]:
            layout = record.shards[0].layout
            if record.global_shape or layout.partial_axes or layout.device_axes:
                return f"a loss of the {side} is not one number"
    for losses in records.values():
        shards = {(r.shards[0].scale, r.shards[0].dtype, len(r.shards)) for r in losses}
        if len(shards) > 1:
            return "they were not recorded alike"
    for side, numbers in group.numbers.items():
        if len({samples.sizes[side][n] for n in numbers}) > 1:
            return f"the micro-batches of the {side} are of different sizes"
    totals: dict[Side, int] = {}
    for side, numbers in group.numbers.items():
        parts = [counts[side].of(n) for n in numbers]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return (
                "no gradient of what they were computed from was recorded whole, which "
                "says how many positions each of them counts"
            )
        if len(set(known)) > 1:
            return (
                f"by the gradients of what they were computed from, they count between "
                f"{min(known)} and {max(known)} positions"
            )
        totals[side] = sum(known)
    if len(set(totals.values())) > 1:
        return (
            "by the gradients of what they were computed from, the runs do not count "
            f"the same positions: {totals[Side.CANDIDATE]} of {totals[Side.REFERENCE]}"
        )
    return None


def _is_mean(
    losses: Mapping[Side, Sequence[TensorRecord]], runs: Mapping[Side, TraceSource]
) -> tuple[bool, bool]:
    """Whether the means of both runs are nearer to each other than the sums.

    And whether these are near: of a loss that is wrong, which of them it is is not
    known.
    """

    def value(record: TensorRecord, side: Side) -> float:
        (shard, *_) = record.shards
        return (
            float(runs[side].load(shard).astype(np.float64).reshape(())) / shard.scale
        )

    totals = {side: sum(value(r, side) for r in of) for side, of in losses.items()}
    means = {side: total / len(losses[side]) for side, total in totals.items()}
    apart = [
        abs(of[Side.CANDIDATE] - of[Side.REFERENCE])
        / (abs(of[Side.REFERENCE]) or np.finfo(np.float64).tiny)
        for of in (means, totals)
    ]
    return apart[0] <= apart[1], min(apart) <= _NEAR


class _Counts:
    """How many positions the loss of a micro-batch counts.

    Args:
        run: The run.
        records: What it recorded of micro-batches of a step.
    """

    def __init__(self, run: TraceSource, records: Records):
        self._run = run
        self._nearest: dict[int, TensorRecord] = {}
        self._counts: dict[int, int | None] = {}
        for id_, record in records.items():
            # Backward makes first what the loss was computed from.
            if id_.kind is Kind.GRAD_OUTPUT and record.global_shape:
                assert id_.microbatch is not None
                self._nearest.setdefault(id_.microbatch, record)

    def of(self, microbatch: int) -> int | None:
        """The number; None where it is not known."""
        if microbatch not in self._counts:
            self._counts[microbatch] = self._count(self._nearest.get(microbatch))
        return self._counts[microbatch]

    def _count(self, record: TensorRecord | None) -> int | None:
        if record is None or np.prod(record.global_shape) > _MOST_ELEMENTS:
            return None
        values = assembled(record, self._run)
        if values is None:
            return None
        if values.ndim > 1:
            values = (values != 0).any(axis=-1)
        return int(np.count_nonzero(values)) or None
