"""The tensors of one step of the candidate, in the micro-batches of the reference.

A tensor of one micro-batch of the reference lies in several of the candidate, or in a
part of one. Its shards there are those of all these micro-batches, each with the blocks
that hold the wanted rows: a layout like any other. Plans only; reads no values.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ttrace.compare.samples.batch_dims import Described, batch_dim
from ttrace.compare.samples.loss_means import NO_LOSS, LossMeans
from ttrace.compare.samples.packed_sequences import PACKED_REASON, packed_parts
from ttrace.compare.samples.packing import (
    PackedSample,
    PaddedDims,
    in_order,
    packed,
    packed_shape,
    padded_dims,
)
from ttrace.compare.samples.samples import Place, StepSamples, is_model_input
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.ir.layout import Block, Region, ShardLayout
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord, TensorRecord, TraceInfo


class StepRegrouping:
    """Regroups one step of the candidate.

    Where the runs pad samples to other lengths, both are shown without padding.

    Args:
        samples: Where its samples are; their places are known.
        reference: What the reference recorded of micro-batches of the step.
        candidate: Likewise.
        skipped: What the candidate skipped of them.
        other_lengths: Lengths of dims that do not count samples.
        gradients_obstacle: Why gradients of activations cannot be matched, or None.
        losses: What losses are compared with.
        totals: Inputs that are one number for the whole step, without micro-batch.
        sample_free: Activations that are the same for all samples, likewise.

    Attributes:
        set_aside: Why a tensor is not compared; filled by ``tensors``.
        reference: Tensors of the reference that are shown otherwise than they were
            recorded; likewise.
    """

    def __init__(
        self,
        samples: StepSamples,
        reference: Mapping[TensorId, TensorRecord],
        candidate: Mapping[TensorId, TensorRecord],
        *,
        skipped: Mapping[TensorId, SkippedRecord],
        other_lengths: Collection[int],
        gradients_obstacle: str | None,
        losses: LossMeans,
        totals: Collection[TensorId] = (),
        sample_free: Collection[TensorId] = (),
    ):
        assert samples.places is not None
        self.set_aside: dict[TensorId, str] = {}
        self.reference: dict[TensorId, TensorRecord] = {}
        self._places = samples.places
        self._samples = samples
        self._gradients_obstacle = gradients_obstacle
        self._losses = losses
        self._totals = totals
        self._sample_free = sample_free
        self._skipped = skipped
        self._of_reference = _by_name(reference)
        self._of_candidate = _by_name(candidate)
        self._packed_parts = packed_parts([*self._of_reference, *self._of_candidate])
        self._other_lengths = other_lengths
        self._layouts: dict[tuple[ShardLayout, int, int, int], ShardLayout] = {}
        of_candidate: dict[int, dict[int, None]] = {}
        for number in sorted(self._places):
            for place in self._places[number]:
                of_candidate.setdefault(place.microbatch, {})[number] = None
        # What has no counterpart gets numbers that the reference has not.
        unused = max(samples.sizes[Side.REFERENCE], default=-1) + 1
        for other in sorted(samples.sizes[Side.CANDIDATE]):
            if other not in of_candidate:
                of_candidate[other] = {unused: None}
                unused += 1
        self._numbers_of = of_candidate

    def tensors(self) -> dict[TensorId, TensorRecord]:
        """The candidate's tensors of micro-batches, under the reference's ids."""
        found: dict[TensorId, TensorRecord] = {}
        for name, of_candidate in self._of_candidate.items():
            of_reference = self._counterparts(name)
            for id_, record in self._renumbered(name, of_reference is None):
                found.setdefault(id_, record)
            if of_reference is None:
                continue
            if name in self._totals:
                found |= self._of_any(of_reference, of_candidate)
            elif name.kind is Kind.LOSS:
                found |= self._of_losses(name, of_reference, of_candidate)
            else:
                found |= self._matched(name, of_reference, of_candidate)
        return found

    def _renumbered(
        self, name: TensorId, is_candidates_alone: bool
    ) -> Iterator[tuple[TensorId, TensorRecord]]:
        """Tensors that no samples of the reference belong to, under numbers of theirs.

        Args:
            name: Of the tensors, without micro-batch.
            is_candidates_alone: The reference has none of that name.
        """
        for number, record in self._of_candidate[name].items():
            (first, *_) = self._numbers_of[number]
            if is_candidates_alone or first not in self._places:
                id_ = replace(name, microbatch=first)
                yield id_, replace(record, id=id_)

    def _of_any(
        self,
        of_reference: Mapping[int, TensorRecord],
        of_candidate: Mapping[int, TensorRecord],
    ) -> dict[TensorId, TensorRecord]:
        """What any micro-batch of the step has alike."""
        return {
            record.id: replace(
                of_candidate[self._places[number][0].microbatch], id=record.id
            )
            for number, record in of_reference.items()
            if number in self._places
            and self._places[number][0].microbatch in of_candidate
        }

    def _of_losses(
        self,
        name: TensorId,
        of_reference: Mapping[int, TensorRecord],
        of_candidate: Mapping[int, TensorRecord],
    ) -> dict[TensorId, TensorRecord]:
        """Losses of the same samples, and what several stand for together."""
        found: dict[TensorId, TensorRecord] = {}
        for number in of_reference:
            id_ = replace(name, microbatch=number)
            shown = self._losses.shown[Side.CANDIDATE].get(id_)
            if number not in self._places:
                continue
            if shown is not None:
                found[id_] = shown
                self.reference[id_] = self._losses.shown[Side.REFERENCE][id_]
            elif id_ in self._losses.set_aside:
                reason = self._losses.set_aside[id_]
                self.set_aside[id_] = f"{self._samples.sizes_sentence}; {reason}"
            else:
                found |= self._whole_or_aside(name, number, of_candidate, NO_LOSS)
        return found

    def _matched(
        self,
        name: TensorId,
        of_reference: Mapping[int, TensorRecord],
        of_candidate: Mapping[int, TensorRecord],
    ) -> dict[TensorId, TensorRecord]:
        """Tensors with the samples of micro-batches of the reference.

        What cannot be matched sample by sample is matched whole, or set aside.
        """
        found: dict[TensorId, TensorRecord] = {}
        obstacle = self._obstacle(name, of_reference, of_candidate)
        dim: int | PaddedDims | str = obstacle or ""
        if obstacle is None and self._samples.mask:
            dim = self._padded_dims(of_reference, of_candidate)
        elif obstacle is None:
            dim = self._batch_dim(of_reference, of_candidate)
        if obstacle is None and isinstance(dim, str) and name in self._sample_free:
            return self._of_any(of_reference, of_candidate)
        for number, record in of_reference.items():
            if number not in self._places:
                continue
            id_ = replace(name, microbatch=number)
            if isinstance(dim, str):
                found |= self._whole_or_aside(name, number, of_candidate, dim)
                continue
            if isinstance(dim, PaddedDims):
                shards = tuple(self._packed(record, number, of_candidate, dim))
            else:
                shards = tuple(self._shards(record, number, of_candidate, dim))
            if shards:
                found[id_] = TensorRecord(id=id_, shards=shards)
            if name.kind in GRADIENTS and number in self._samples.repeated:
                self.set_aside[id_] = (
                    f"{self._samples.sizes_sentence}; samples of this "
                    "micro-batch have the same inputs as others, and which of "
                    "them is which is not known"
                )
        return found

    def _whole_or_aside(
        self,
        name: TensorId,
        number: int,
        of_candidate: Mapping[int, TensorRecord],
        obstacle: str,
    ) -> dict[TensorId, TensorRecord]:
        """The tensor of the same samples; where there is none, it is set aside."""
        id_ = replace(name, microbatch=number)
        whole = self._whole(name, number, of_candidate)
        if whole is not None:
            return {id_: replace(whole, id=id_)}
        self.set_aside[id_] = f"{self._samples.sizes_sentence}; {obstacle}"
        return {}

    def _counterparts(self, name: TensorId) -> dict[int, TensorRecord] | None:
        """What ``align`` matches a tensor with, by micro-batch of the reference.

        A recomputation that the reference does not make repeats its first forward.
        """
        found = self._of_reference.get(name)
        if found is None and name.pass_ is Pass.RECOMPUTE:
            found = self._of_reference.get(replace(name, pass_=Pass.FORWARD))
        return found

    def skipped(self) -> dict[TensorId, SkippedRecord]:
        """What the candidate skipped, in the micro-batches that it would be in."""
        found: dict[TensorId, SkippedRecord] = {}
        for id_, record in self._skipped.items():
            assert id_.microbatch is not None
            for number in self._numbers_of.get(id_.microbatch, (0,)):
                name = replace(id_, microbatch=number)
                found.setdefault(name, replace(record, id=name))
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
        if name.kind in ACTIVATIONS and (self._samples.mask or not in_order):
            return None
        return of_candidate.get(other)

    def _obstacle(
        self,
        name: TensorId,
        of_reference: Mapping[int, TensorRecord],
        of_candidate: Mapping[int, TensorRecord],
    ) -> str | None:
        """Why a tensor cannot be matched sample by sample, or None."""
        if name.kind not in ACTIVATIONS:
            return "it sums over the samples of a micro-batch; main_grad is compared"
        if name in self._packed_parts:
            return PACKED_REASON
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
            is_in_order=all(map(self._is_whole_in_order, of_reference)),
        )

    def _is_whole_in_order(self, number: int) -> bool:
        """Whether the candidate has a micro-batch of the same samples, in order."""
        places = self._places.get(number, ())
        others = {place.microbatch for place in places}
        sizes = self._samples.sizes[Side.CANDIDATE]
        return [place.row for place in places] == list(range(len(places))) and all(
            len(others) == 1 and sizes[other] == len(places) for other in others
        )

    def _padded_dims(
        self,
        of_reference: Mapping[int, TensorRecord],
        of_candidate: Mapping[int, TensorRecord],
    ) -> int | PaddedDims | str:
        sizes, lengths = self._samples.sizes, self._samples.lengths
        of_runs = ((Side.REFERENCE, of_reference), (Side.CANDIDATE, of_candidate))
        dims = padded_dims(
            _described(of_reference) + _described(of_candidate),
            sizes=[sizes[side][n] or 0 for side, records in of_runs for n in records],
            lengths=[lengths[side][n] for side, records in of_runs for n in records],
            other_lengths=self._other_lengths,
        )
        if dims is None:
            return self._batch_dim(of_reference, of_candidate)
        return dims

    def _packed(
        self,
        record: TensorRecord,
        number: int,
        of_candidate: Mapping[int, TensorRecord],
        dims: PaddedDims,
    ) -> Iterator[ShardRecord]:
        """The candidate's shards without padding; keeps the reference's likewise."""
        spans = self._samples.spans
        places = self._places[number]
        own = in_order(
            [
                spans[Side.REFERENCE][Place(microbatch=number, row=row)]
                for row in range(len(places))
            ]
        )
        shape = packed_shape(
            record.global_shape, dims, sum(sample.span.length for sample in own)
        )
        others: dict[int, list[PackedSample]] = {}
        for place, sample in zip(places, own, strict=True):
            span = spans[Side.CANDIDATE][place]
            others.setdefault(place.microbatch, []).append(
                replace(sample, row=place.row, span=span)
            )
        self.reference[record.id] = TensorRecord(
            id=record.id,
            shards=tuple(
                replace(shard, layout=packed(shard.layout, own, dims, shape))
                for shard in record.shards
            ),
        )
        for other, samples in others.items():
            for shard in of_candidate[other].shards if other in of_candidate else ():
                layout = packed(shard.layout, samples, dims, shape)
                if layout.blocks:
                    yield replace(shard, layout=layout)

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
            block for old in layout.blocks for block in blocks_of_rows(old, rows, dim)
        ]
        return replace(layout, global_shape=global_shape, blocks=tuple(blocks))


def blocks_of_rows(block: Block, rows: Mapping[int, int], dim: int) -> Iterator[Block]:
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
    tensors: Mapping[TensorId, TensorRecord],
) -> dict[TensorId, dict[int, TensorRecord]]:
    """The tensors of micro-batches, by their id without micro-batch, and by it."""
    found: dict[TensorId, dict[int, TensorRecord]] = {}
    for id_, record in tensors.items():
        assert id_.microbatch is not None
        found.setdefault(replace(id_, microbatch=None), {})[id_.microbatch] = record
    return found


def _described(records: Mapping[int, TensorRecord]) -> list[Described]:
    return [
        (record.global_shape, record.shards[0].layout.dims)
        for record in records.values()
    ]


_OF_STEPS = frozenset(
    {
        Kind.PARAM,
        Kind.UPDATED_PARAM,
        Kind.WRITTEN_PARAM,
        Kind.MAIN_GRAD,
        Kind.BUFFER,
    }
)
"""What has no samples."""


def lengths_besides_samples(info: TraceInfo) -> frozenset[int]:
    """Lengths of dims that do not count samples."""
    lengths: set[int] = set()
    for id_, record in info.tensors.items():
        if id_.kind in _OF_STEPS:
            lengths.update(record.global_shape)
        elif is_model_input(id_):
            lengths.update(record.global_shape[1:])
    return frozenset(lengths)
