"""Presents the candidate in the micro-batches of the reference, sample by sample.

Where the two runs cut a step's samples otherwise, a tensor of one micro-batch of the
reference lies in several of the candidate, or in a part of one. Its shards there are
those of all these micro-batches, each with the blocks that hold the wanted rows: a
layout like any other. What cannot be matched so is set aside with the reason, and the
kinds of the whole step are compared.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.batch_dims import Described, batch_dim
from ttrace.compare.later_scaling import later_scaling_reason
from ttrace.compare.samples import StepSamples, is_model_input, match_samples
from ttrace.errors import UsageError
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, PER_MICROBATCH, Kind
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord, TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrouped:
    """Two runs whose micro-batches hold the same samples, as far as that can be had.

    Attributes:
        candidate: The candidate in the micro-batches of the reference.
        set_aside: Why a tensor of a micro-batch is not compared.
        given_otherwise: Inputs of the model that stand for steps of which the runs were
            not given the same samples, with what differs.
        note: A sentence for the headline; empty where both runs cut all steps alike.
    """

    candidate: TraceSource
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)
    given_otherwise: Mapping[TensorId, str] = field(default_factory=dict)
    note: str = ""


def regroup(reference: TraceSource, candidate: TraceSource) -> Regrouped:
    """Matches samples by what they hold, where micro-batches are not the same ones.

    Reads the recorded inputs of the models, and where gradients of activations could
    be compared, those of a few parameters.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    steps = match_samples(reference, candidate)
    if not steps:
        return Regrouped(candidate=candidate)
    tensors = dict(candidate.info.tensors)
    skipped = dict(candidate.info.skipped)
    set_aside: dict[TensorId, str] = {}
    given_otherwise: dict[TensorId, str] = {}
    is_matched = False
    for samples in steps:
        if samples.differs_at is not None:
            given_otherwise[samples.differs_at] = samples.difference
        if samples.places is None:
            set_aside |= _whole_step(samples, reference.info, candidate.info)
            continue
        is_matched = True
        regrouping = _Regrouping(
            samples,
            reference.info,
            candidate.info,
            gradients_obstacle=_gradients_obstacle(samples, reference, candidate),
        )
        for id_ in _of_microbatches(samples.step, candidate.info.tensors):
            del tensors[id_]
        for id_ in _of_microbatches(samples.step, candidate.info.skipped):
            del skipped[id_]
        tensors |= regrouping.tensors()
        skipped |= regrouping.skipped()
        set_aside |= regrouping.set_aside
    info = TraceInfo(ranks=candidate.info.ranks, tensors=tensors, skipped=skipped)
    return Regrouped(
        candidate=RegroupedTrace(candidate, info),
        set_aside=set_aside,
        given_otherwise=given_otherwise,
        note=_note(steps, is_matched=is_matched),
    )


def _note(steps: Sequence[StepSamples], *, is_matched: bool) -> str:
    first = steps[0]
    where = f"step {first.step}"
    what = "order the samples of" if first.is_cut_alike else "cut"
    sentence = f"The runs {what} {where} otherwise: {first.sizes_sentence}. "
    if is_matched:
        return sentence + "Samples were matched by the rows of the model's inputs."
    return sentence + (
        f"Only kinds of the whole step were compared there, as {first.obstacle}."
    )


def _of_microbatches(step: int, ids: Iterable[TensorId]) -> list[TensorId]:
    return [
        id_
        for id_ in ids
        if id_.step == step
        and id_.kind in PER_MICROBATCH
        and id_.microbatch is not None
    ]


def _whole_step(
    samples: StepSamples, reference: TraceInfo, candidate: TraceInfo
) -> dict[TensorId, str]:
    """Sets all aside that both runs have in micro-batches, of other samples.

    What only one of them has at all is left to be unmatched.
    """
    ids = [
        _of_microbatches(samples.step, (*info.tensors, *info.skipped))
        for info in (reference, candidate)
    ]
    names = [{_name_of_any_call(id_) for id_ in of_run} for of_run in ids]
    common = names[0] & names[1]
    reason = f"{samples.sizes_sentence}; {samples.obstacle}"
    return {
        id_: reason
        for id_ in itertools.chain(*ids)
        if _name_of_any_call(id_) in common and id_ != samples.differs_at
    }


def _name_of_any_call(id_: TensorId) -> TensorId:
    return replace(id_, microbatch=None, call=0)


def _gradients_obstacle(
    samples: StepSamples, reference: TraceSource, candidate: TraceSource
) -> str | None:
    """Why gradients of activations may differ by an unknown factor, or None."""
    for side, trace in ((Side.REFERENCE, reference), (Side.CANDIDATE, candidate)):
        reason = later_scaling_reason(trace, samples.step, samples.sizes[side])
        if reason is not None:
            return f"{side}: {reason}"
    return None


class _Regrouping:
    """Regroups one step of the candidate."""

    def __init__(
        self,
        samples: StepSamples,
        reference: TraceInfo,
        candidate: TraceInfo,
        *,
        gradients_obstacle: str | None,
    ):
        assert samples.places is not None
        self.set_aside: dict[TensorId, str] = {}
        self._places = samples.places
        self._samples = samples
        self._gradients_obstacle = gradients_obstacle
        self._candidate = candidate
        self._of_reference = _by_name(samples.step, reference.tensors)
        self._of_candidate = _by_name(samples.step, candidate.tensors)
        self._other_lengths = _lengths_besides_samples(reference)
        self._layouts: dict[tuple[ShardLayout, int, int, int], ShardLayout] = {}
        of_candidate: dict[int, list[int]] = {}
        for number in sorted(self._places):
            for place in self._places[number]:
                known = of_candidate.setdefault(place.microbatch, [])
                if number not in known:
                    known.append(number)
        self._numbers_of = of_candidate

    def tensors(self) -> dict[TensorId, TensorRecord]:
        """The candidate's tensors of micro-batches, under the reference's ids."""
        found: dict[TensorId, TensorRecord] = {}
        for name, of_candidate in self._of_candidate.items():
            of_reference = self._of_reference.get(name)
            if of_reference is None:
                for number, record in of_candidate.items():
                    (first, *_) = self._numbers_of[number]
                    id_ = replace(name, microbatch=first)
                    found.setdefault(id_, replace(record, id=id_))
                continue
            obstacle = self._obstacle(name, of_reference, of_candidate)
            dim = (
                obstacle
                if obstacle is not None
                else self._batch_dim(of_reference, of_candidate)
            )
            for number, record in of_reference.items():
                if isinstance(dim, str):
                    whole = self._whole(name, number, of_candidate)
                    if whole is not None:
                        found[record.id] = replace(whole, id=record.id)
                    else:
                        reason = f"{self._samples.sizes_sentence}; {dim}"
                        self.set_aside[record.id] = reason
                    continue
                shards = tuple(self._shards(record, number, of_candidate, dim))
                if shards:
                    found[record.id] = TensorRecord(id=record.id, shards=shards)
                if name.kind in GRADIENTS and number in self._samples.repeated:
                    self.set_aside[record.id] = (
                        f"{self._samples.sizes_sentence}; samples of this "
                        "micro-batch have the same inputs as others, and which of "
                        "them is which is not known"
                    )
        return found

    def skipped(self) -> dict[TensorId, SkippedRecord]:
        """What the candidate skipped, in the micro-batches that it would be in."""
        found: dict[TensorId, SkippedRecord] = {}
        skipped = self._candidate.skipped
        for id_ in _of_microbatches(self._samples.step, skipped):
            assert id_.microbatch is not None
            for number in self._numbers_of.get(id_.microbatch, (0,)):
                name = replace(id_, microbatch=number)
                found.setdefault(name, replace(skipped[id_], id=name))
        return found

    def _whole(
        self, name: TensorId, number: int, of_candidate: Mapping[int, TensorRecord]
    ) -> TensorRecord | None:
        """The candidate's tensor of the same samples as a micro-batch, if one has them.

        What sums over samples is the same in any order of them; of other tensors it is
        not known, and the order must be the same, too.
        """
        places = self._places[number]
        (other, *more) = dict.fromkeys(place.microbatch for place in places)
        if more or self._samples.sizes[Side.CANDIDATE][other] != len(places):
            return None
        in_order = all(place.row == row for row, place in enumerate(places))
        if name.kind in ACTIVATIONS and not in_order:
            return None
        return of_candidate.get(other)

    def _obstacle(
        self,
        name: TensorId,
        of_reference: Mapping[int, TensorRecord],
        of_candidate: Mapping[int, TensorRecord],
    ) -> str | None:
        """Why a tensor cannot be matched sample by sample, or None."""
        if name.kind is Kind.LOSS:
            return (
                "how the losses of micro-batches make up that of the step is not "
                "known; the gradients of the step are compared"
            )
        if name.kind not in ACTIVATIONS:
            return "it sums over the samples of a micro-batch; main_grad is compared"
        for record in (*of_reference.values(), *of_candidate.values()):
            for shard in record.shards:
                if shard.layout.index is not None:
                    return "the order of its rows depends on data"
                if shard.layout.device_axes:
                    return "it was recorded device by device"
                if shard.layout.is_flat:
                    return "it was recorded flattened"
        return self._gradients_obstacle if name.kind in GRADIENTS else None

    def _batch_dim(
        self,
        of_reference: Mapping[int, TensorRecord],
        of_candidate: Mapping[int, TensorRecord],
    ) -> int | str:
        sizes = self._samples.sizes
        return batch_dim(
            _described(of_reference),
            _described(of_candidate),
            sizes=(
                [sizes[Side.REFERENCE][number] or 0 for number in of_reference],
                [sizes[Side.CANDIDATE][number] or 0 for number in of_candidate],
            ),
            other_lengths=self._other_lengths,
        )

    def _shards(
        self,
        record: TensorRecord,
        number: int,
        of_candidate: Mapping[int, TensorRecord],
        dim: int,
    ) -> Iterator[ShardRecord]:
        """The candidate's shards with samples of a micro-batch of the reference."""
        for other in dict.fromkeys(place.microbatch for place in self._places[number]):
            if other not in of_candidate:
                continue
            for shard in of_candidate[other].shards:
                key = (shard.layout, number, other, dim)
                if key not in self._layouts:
                    self._layouts[key] = self._regrouped(*key, record.global_shape)
                layout = self._layouts[key]
                if layout.blocks:
                    yield replace(shard, layout=layout)

    def _regrouped(
        self,
        layout: ShardLayout,
        number: int,
        other: int,
        dim: int,
        global_shape: tuple[int, ...],
    ) -> ShardLayout:
        """A layout of a micro-batch, as a part of one of the reference."""
        rows = {
            place.row: row
            for row, place in enumerate(self._places[number])
            if place.microbatch == other
        }
        blocks = [
            block for old in layout.blocks for block in _blocks_of_rows(old, rows, dim)
        ]
        return replace(layout, global_shape=global_shape, blocks=tuple(blocks))


def _blocks_of_rows(block: Block, rows: Mapping[int, int], dim: int) -> Iterator[Block]:
    """The parts of a block that hold some rows, each where its rows are wanted.

    Args:
        block: Of a layout.
        rows: Where each wanted row of ``dim`` belongs.
        dim: The dim of the rows.
    """
    held = range(block.region.start[dim], block.region.stop[dim])
    wanted = np.array([row for row in held if row in rows], dtype=np.int64)
    targets = np.array([rows[row] for row in wanted.tolist()], dtype=np.int64)
    if not wanted.size:
        return
    # Rows that follow each other in both are one block.
    breaks = np.flatnonzero((np.diff(wanted) != 1) | (np.diff(targets) != 1)) + 1
    for of_wanted, of_targets in zip(
        np.split(wanted, breaks), np.split(targets, breaks), strict=True
    ):
        start, extent = list(block.region.start), list(block.region.extent)
        local_start = list(block.local_start)
        local_start[dim] += int(of_wanted[0]) - start[dim]
        start[dim], extent[dim] = int(of_targets[0]), len(of_targets)
        yield Block(
            region=Region(start=tuple(start), extent=tuple(extent)),
            local_start=tuple(local_start),
        )


def _by_name(
    step: int, tensors: Mapping[TensorId, TensorRecord]
) -> dict[TensorId, dict[int, TensorRecord]]:
    """The tensors of micro-batches, by their id without micro-batch, and by it."""
    found: dict[TensorId, dict[int, TensorRecord]] = {}
    for id_ in _of_microbatches(step, tensors):
        assert id_.microbatch is not None
        name = replace(id_, microbatch=None)
        found.setdefault(name, {})[id_.microbatch] = tensors[id_]
    return found


def _described(records: Mapping[int, TensorRecord]) -> list[Described]:
    return [
        (record.global_shape, record.shards[0].layout.dims)
        for record in records.values()
    ]


def _lengths_besides_samples(info: TraceInfo) -> frozenset[int]:
    """Lengths of dims that do not count samples."""
    lengths: set[int] = set()
    for id_, record in info.tensors.items():
        if id_.kind in (Kind.PARAM, Kind.UPDATED_PARAM, Kind.MAIN_GRAD, Kind.BUFFER):
            lengths.update(record.global_shape)
        elif is_model_input(id_):
            lengths.update(record.global_shape[1:])
    return frozenset(lengths)


class RegroupedTrace:
    """A ``TraceSource`` whose shards are those of another, under other layouts.

    Attributes:
        name: As of the source that it presents.
        info: What it holds: every shard with the id that it was recorded under.
        incomplete: As of the source.
    """

    def __init__(self, source: TraceSource, info: TraceInfo):
        """Made by ``regroup``."""
        self.name = source.name
        self.info = info
        self.incomplete = source.incomplete
        self._source = source

    def load(self, shard: ShardRecord) -> np.ndarray:
        """Gives the values of a shard as they were recorded.

        Raises:
            UsageError: The shard is not of this trace.
            CorruptTraceError: Its bytes are not those that were written.
        """
        record = self._source.info.tensors.get(shard.id)
        for recorded in record.shards if record is not None else ():
            if recorded.rank == shard.rank:
                return self._source.load(recorded)
        raise UsageError(
            "a shard was looked up in a trace that does not hold it",
            where=self.name,
            got=f"{shard.id}, rank {shard.rank}",
            remedy="take the shards from the info of the same trace",
        )
