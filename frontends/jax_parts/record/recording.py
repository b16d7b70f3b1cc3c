"""The recording of one step: captures become records, main gradients also a norm."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from absl import logging

from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.plan import MAX_ITERATIONS
from ttrace.frontends.jax_parts.record.declared import DeclaredDims
from ttrace.frontends.jax_parts.record.given_batch import GIVEN
from ttrace.frontends.jax_parts.record.idle_options import idle_options
from ttrace.frontends.jax_parts.record.overwriting import Overwriting
from ttrace.frontends.jax_parts.record.shardings import FLAT_MESH, rank_of
from ttrace.frontends.jax_parts.record.shards import (
    HostShards,
    RankShard,
    branch_reason,
)
from ttrace.frontends.jax_parts.record.writers import RankWriters
from ttrace.frontends.jax_parts.taps.patching import Missed
from ttrace.ir.collective import OWN
from ttrace.ir.kinds import NEEDS_AUTOGRAD, PER_MICROBATCH, Kind
from ttrace.ir.layout import whole
from ttrace.ir.operation import OperationPart
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.recording.faults import reason_of
from ttrace.recording.request import RecordRequest
from ttrace.recording.rewrites import REWRITTEN_KINDS

_NO_NORM = "parts of the gradients lie in other processes"
_NO_NORM_OF_SKIPPED = "a gradient was not recorded, so their norm is not known"
_NO_NORM_OF_PARTS = (
    "a gradient was recorded as partials or device by device, so their norm is not "
    "known"
)

_WHICH_IS_KEPT = (
    "the module computes it several times in the step, and no argument of the step "
    "ends in these names: which of the values is kept is not known; give the step its "
    "state as an argument, and return it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a script says to ``jax_capture.trace``.

    Attributes:
        strict: Programs are compiled without excess precision.
        microbatches: Iterations of the loop that accumulates gradients; 1 where there
            is none.
        max_iterations: Iterations of a ``while`` loop that are recorded.
        dims: Dims text of values that are local to a ``shard_map``.
        scopes: Values that leave a named scope are tapped; None for where there are no
            modules.
        loss_scale: Factor of the loss that is differentiated; gradients have it up to
            those that an optimizer is given.
    """

    strict: bool = False
    microbatches: int = 1
    max_iterations: int = MAX_ITERATIONS
    dims: DeclaredDims = field(default_factory=DeclaredDims)
    scopes: bool | None = None
    loss_scale: float = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class StepRecording:
    """The recording of one step.

    Attributes:
        writers: Take the records.
        request: What to record.
        options: Of the script.
        step: Number of the step.
        has_params: The initial parameters were recorded by a step before.
        overwriting: What gave the step other values; None where nothing did.
    """

    writers: RankWriters
    request: RecordRequest
    options: Options
    step: int
    has_params: bool
    overwriting: Overwriting | None = None
    _shards: HostShards = field(default_factory=HostShards)
    _squares: float | None = None
    _norm_dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    _no_norm_reason: str = ""
    _has_skipped_rate: bool = False

    def record(self, captures: Sequence[Capture]) -> None:
        """Records the captures, and adds up the squares of the main gradients."""
        counts = _num_calls(captures)
        per_microbatch = _calls_per_microbatch(counts, self.options.microbatches)
        if not self.has_params and not self.request.capture.to_json():
            self._warn_of_idle_options(captures, counts, per_microbatch)
        for capture in captures:
            if capture.operation is not None:
                self._record_operation(capture, capture.operation, per_microbatch)
                continue
            is_initial = capture.kind in (Kind.PARAM, Kind.BUFFER)
            if is_initial and (self.has_params or capture.call):
                continue  # the initial ones, once
            id_ = self._id(capture, per_microbatch)
            if self.overwriting is not None and capture.kind in REWRITTEN_KINDS:
                self.overwriting.confirm(id_, capture)
            if capture.kind is Kind.LEARNING_RATE and capture.skip:
                self._has_skipped_rate = True
            is_gradient = capture.kind is Kind.MAIN_GRAD
            if not (self.request.capture.wants(id_) or is_gradient):
                continue
            shards, reason = self._shards_of(id_, capture)
            if is_gradient:
                self._add_squares(capture, shards, reason)
            if self.request.capture.wants(id_):
                self._emit(id_, shards, reason, scale=capture.scale)
        self._record_buffers(captures, per_microbatch)

    def _record_operation(
        self,
        capture: Capture,
        part: OperationPart,
        per_microbatch: Mapping[object, int],
    ) -> None:
        """Records an operand or a result: what each device holds, as it is.

        Inside of a ``shard_map`` each has a value of its own, and nothing says what
        they are together.
        """
        id_ = self._id(capture, per_microbatch)
        if not self.request.capture.wants(id_):
            return
        shards, reason = self._shards_of(id_, capture)
        if reason is not None:
            self.writers.skip(dataclasses.replace(id_, slot=part.key), reason)
            return
        if capture.value is not None and capture.value.axes:
            num_dims = capture.value.num_dims
            shards = {
                rank: _own_shard(shard.array, num_dims)
                for rank, shard in shards.items()
            }
        self.writers.add_operation(id_, part, shards)

    def skip_operations(self, reasons: Mapping[str, str]) -> None:
        """Says of which modules not all operations are recorded, and why."""
        for module, reason in reasons.items():
            id_ = TensorId(step=self.step, microbatch=0, module=module, kind=Kind.OP)
            self.writers.skip(id_, reason)

    def _record_buffers(
        self, captures: Sequence[Capture], per_microbatch: Mapping[object, int]
    ) -> None:
        """Records what modules keep for the next step: the last value of the step.

        What the step returns was captured by itself, or why that is not known. Of a
        module whose state the step is not given, and that a micro-batch calls several
        times, it is not known which of its values goes on: stacked layers are calls,
        too.
        """
        returned = {
            (capture.site.module, capture.site.slot)
            for capture in captures
            if capture.kind is Kind.UPDATED_BUFFER
        }
        last = {
            _name(capture): capture
            for capture in captures
            if capture.site.is_kept
            and capture.pass_ is Pass.FORWARD
            and (capture.site.module, capture.site.slot) not in returned
        }
        for name, capture in last.items():
            id_ = TensorId(
                step=self.step,
                module=capture.site.module,
                kind=Kind.UPDATED_BUFFER,
                slot=capture.site.slot,
            )
            if not self.request.capture.wants(id_):
                continue
            if per_microbatch[name] == 1:
                self._emit(id_, *self._shards_of(id_, capture))
            else:
                self._emit(id_, {}, _WHICH_IS_KEPT)

    def record_scalars(self, missed: Sequence[Missed]) -> None:
        """Records the norm of the gradients, and what scalars could not be tapped."""
        norm = TensorId(step=self.step, module=ROOT_MODULE, kind=Kind.GRAD_NORM)
        if self.request.capture.wants(norm):
            if self._no_norm_reason:
                self.writers.skip(norm, self._no_norm_reason)
            elif self._squares is not None:
                value = np.array(math.sqrt(self._squares), self._norm_dtype)
                shard = RankShard(layout=whole((), FLAT_MESH), array=value)
                rank = rank_of(jax.local_devices()[0])
                self._emit(norm, {rank: shard}, None)
        for item in missed:
            if item.kind is Kind.LEARNING_RATE:
                rate = TensorId(
                    step=self.step,
                    module=ROOT_MODULE,
                    kind=Kind.LEARNING_RATE,
                    slot="group0",
                )
                if self.request.capture.wants(rate) and not self._has_skipped_rate:
                    self.writers.skip(rate, item.reason)

    def _warn_of_idle_options(
        self,
        captures: Sequence[Capture],
        counts: Mapping[object, int],
        per_microbatch: Mapping[object, int],
    ) -> None:
        """Only where nothing is filtered: what is left out is no mistake."""
        parts = {
            _name(capture)
            for capture in captures
            if capture.kind in PER_MICROBATCH and capture.order != GIVEN
        }
        for sentence in idle_options(
            self.options.dims,
            self.options.microbatches,
            {self._id(capture, per_microbatch) for capture in captures},
            {name: counts[name] for name in parts},
        ):
            logging.warning("ttrace: %s", sentence)

    def _shards_of(
        self, id_: TensorId, capture: Capture
    ) -> tuple[Mapping[int, RankShard], str | None]:
        """What the ranks hold of a value, or why that is not recorded."""
        try:
            reason = capture.skip or branch_reason(capture)
            if reason is not None:
                return {}, reason
            assert capture.value is not None
            dims = self.options.dims.of(id_, capture.value.num_dims)
            return self._shards.of(
                capture.value,
                dims,
                tiling=capture.tiling,
                summed_axes=capture.summed_axes,
            ), None
        # Whatever it is, the step has its results, and the other values are recorded.
        except Exception as error:
            return {}, reason_of(error, "read it")

    def _emit(
        self,
        id_: TensorId,
        shards: Mapping[int, RankShard],
        reason: str | None,
        *,
        scale: int = 1,
    ) -> None:
        if reason is None:
            scaled = id_.kind is Kind.LOSS or (
                id_.kind in NEEDS_AUTOGRAD and id_.kind in PER_MICROBATCH
            )
            by_hand = self.options.loss_scale if scaled else 1.0
            self.writers.add(id_, shards, scale=by_hand * scale)
        else:
            self.writers.skip(id_, reason)

    def _add_squares(
        self, capture: Capture, shards: Mapping[int, RankShard], reason: str | None
    ) -> None:
        """Every element counts once, however many devices hold it."""
        if reason is not None:
            self._no_norm_reason = _NO_NORM_OF_SKIPPED
            return
        parts = _distinct_parts(shards)
        if parts is None:
            self._no_norm_reason = _NO_NORM_OF_PARTS
            return
        assert capture.value is not None
        if not capture.value.array.is_fully_addressable:
            self._no_norm_reason = _NO_NORM
            return
        self._norm_dtype = np.result_type(self._norm_dtype, capture.value.array.dtype)
        squares = sum(
            float(np.sum(np.square(part, dtype=np.float64))) for part in parts
        )
        self._squares = (self._squares or 0.0) + squares

    def _id(self, capture: Capture, per_microbatch: Mapping[object, int]) -> TensorId:
        is_of_one = capture.kind in PER_MICROBATCH
        calls = per_microbatch[_name(capture)] if is_of_one else None
        return capture.tensor_id(self.step, calls)


def _own_shard(array: np.ndarray, num_dims: int) -> RankShard:
    """What one device has, without the dims in which the devices stand side by side."""
    array = array.reshape(array.shape[array.ndim - num_dims :])
    return RankShard(layout=whole(array.shape, OWN), array=array)


def _distinct_parts(shards: Mapping[int, RankShard]) -> list[np.ndarray] | None:
    """The parts that make up a gradient, each once; None where that is not known.

    Where each device has a value of its own, and all are equal, each has all of it: an
    optimizer is given it on each of them, so that it is no partial.
    """
    first, *others = shards.values()
    if first.layout.device_axes:
        equal = all(np.array_equal(first.array, shard.array) for shard in others)
        return [first.array] if equal else None
    if first.layout.partial_axes:
        return None
    parts = {shard.layout.blocks[0].region: shard.array for shard in shards.values()}
    return list(parts.values())


def _name(capture: Capture) -> object:
    """Of an operation: the module, whose calls count."""
    slot = None if capture.kind is Kind.OP else capture.site.slot
    return capture.site.module, capture.kind, slot


def _num_calls(captures: Sequence[Capture]) -> dict[object, int]:
    """How often the step calls what each value is of."""
    counts: dict[object, int] = {}
    for capture in captures:
        name = _name(capture)
        counts[name] = max(counts.get(name, 0), capture.call + 1)
    return counts


def _calls_per_microbatch(
    counts: Mapping[object, int], microbatches: int
) -> dict[object, int]:
    """How often a micro-batch calls what each value is of; loops run in order.

    What is not called equally often in each belongs to the first one altogether.
    """
    return {
        name: count if count % microbatches else count // microbatches
        for name, count in counts.items()
    }
