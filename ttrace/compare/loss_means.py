"""Losses of several micro-batches, against that of one with the same samples.

They make up its loss in a known way only where each of them stands for as much of it:
as many samples, and as many positions that the loss counts. Which these are shows in
the gradients of what the loss was computed from: they are zero where it does not count.
Then the loss of all is the mean of the others, or their sum where the script adds up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.samples import StepSamples
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
    """Micro-batches with the same samples: several of one run, one of the other."""

    several: Side
    numbers: Mapping[Side, tuple[int, ...]]

    @property
    def one(self) -> Side:
        """The run that has one."""
        return Side.CANDIDATE if self.several is Side.REFERENCE else Side.REFERENCE


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
    shown: dict[Side, dict[TensorId, TensorRecord]] = {side: {} for side in Side}
    combined: dict[Side, dict[ShardKey, Combined]] = {side: {} for side in Side}
    set_aside: dict[TensorId, str] = {}
    how = set()
    for name in _losses(of_step[Side.REFERENCE]):
        for number in samples.places:
            id_ = replace(name, microbatch=number)
            if id_ not in of_step[Side.REFERENCE] or id_ in set_aside:
                continue
            group = _group(samples, number)
            if group is None:
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
            several = known[group.several]
            divisor, is_near = _divisor(known[group.one][0], several, group, runs)
            if is_near:
                how.add("mean" if divisor > 1 else "sum")
            first = several[0]
            for shards in zip(*(record.shards for record in several), strict=True):
                whole = Combined(shards=tuple(shards), divisor=divisor)
                combined[group.several][shard_key(shards[0])] = whole
            shown[group.several][ids[0]] = replace(first, id=ids[0])
            shown[group.one][ids[0]] = replace(known[group.one][0], id=ids[0])
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


def _group(samples: StepSamples, number: int) -> _Group | None:
    """The micro-batches that have the samples of one of the reference, and no others.

    None where there are none such, or one of each run.
    """
    assert samples.places is not None
    ours = dict.fromkeys(place.microbatch for place in samples.places[number])
    theirs = [
        n
        for n, places in samples.places.items()
        if any(place.microbatch in ours for place in places)
    ]
    num_samples = sum(len(samples.places[n]) for n in theirs)
    sizes = samples.sizes[Side.CANDIDATE]
    if sum(sizes[n] or 0 for n in ours) != num_samples:
        return None
    numbers = {
        Side.REFERENCE: tuple(sorted(theirs)),
        Side.CANDIDATE: tuple(sorted(ours)),
    }
    if len(ours) > 1 and len(theirs) == 1:
        return _Group(several=Side.CANDIDATE, numbers=numbers)
    if len(theirs) > 1 and len(ours) == 1:
        return _Group(several=Side.REFERENCE, numbers=numbers)
    return None


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
    several = records[group.several]
    shards = [(r.shards[0].scale, r.shards[0].dtype, len(r.shards)) for r in several]
    if len(set(shards)) > 1:
        return "they were not recorded alike"
    sizes = {samples.sizes[group.several][n] for n in group.numbers[group.several]}
    if len(sizes) > 1:
        return f"the micro-batches of the {group.several} are of different sizes"
    parts = [counts[group.several].of(n) for n in group.numbers[group.several]]
    (whole,) = (counts[group.one].of(n) for n in group.numbers[group.one])
    known = [part for part in parts if part is not None]
    if whole is None or len(known) < len(parts):
        return (
            "no gradient of what they were computed from was recorded whole, which "
            "says how many positions each of them counts"
        )
    if len(set(known)) > 1:
        return (
            f"by the gradients of what they were computed from, they count between "
            f"{min(known)} and {max(known)} positions"
        )
    if sum(known) != whole:
        return (
            "by the gradients of what they were computed from, the runs do not count "
            f"the same positions: {sum(known)} of {whole}"
        )
    return None


def _divisor(
    one: TensorRecord,
    several: Sequence[TensorRecord],
    group: _Group,
    runs: Mapping[Side, TraceSource],
) -> tuple[int, bool]:
    """How many losses there are, where their mean is nearer to the one than the sum.

    And whether it is near: of a loss that is wrong, which of them it is is not known.
    """

    def value(record: TensorRecord, side: Side) -> float:
        (shard, *_) = record.shards
        return (
            float(runs[side].load(shard).astype(np.float64).reshape(())) / shard.scale
        )

    total = sum(value(record, group.several) for record in several)
    wanted = value(one, group.one)
    of_mean, of_sum = abs(total / len(several) - wanted), abs(total - wanted)
    is_near = min(of_mean, of_sum) <= _NEAR * abs(wanted)
    return 1 if of_sum < of_mean else len(several), is_near


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
