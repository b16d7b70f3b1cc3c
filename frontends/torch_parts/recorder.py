"""Turns observed torch tensors into records of a trace, or into visible skips."""

import threading

import numpy as np
import torch
from absl import logging

from ttrace.errors import DtypeError, LayoutError, TensorIdError, TtraceError
from ttrace.frontends.torch_parts.arrays import RecentCopies
from ttrace.frontends.torch_parts.description import (
    FlatPart,
    ModelDescription,
    NamedParameter,
    NoLayout,
    RecordedElsewhere,
)
from ttrace.ir.kinds import EXACT_REPLICAS
from ttrace.ir.layout import ShardLayout, flat_range
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord
from ttrace.recording.sink import TraceSink


class Recorder:
    """Records tensors of one rank. Never raises into the training step.

    A tensor that cannot be stored, or whose layout does not fit it, is skipped with
    the reason. Where the sink fails, recording stops with one warning.

    Args:
        description: Layouts and scales.
        sink: Takes the records.
        rank: Of this process.

    Attributes:
        num_recorded: Tensors recorded so far; skipped ones do not count.
        is_active: Whether the sink still takes records.
    """

    def __init__(self, description: ModelDescription, sink: TraceSink, *, rank: int):
        self.num_recorded = 0
        self.is_active = True
        self._description = description
        self._sink = sink
        self._rank = rank
        self._sequence = 0
        self._copies = RecentCopies()
        self._has_warned_of_repeats = False
        # The backward of each device runs its hooks in a thread of its own.
        self._lock = threading.RLock()

    def activation(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> None:
        """Records an input or output of a module, or the gradient of one."""
        assert id_.slot is not None
        try:
            layout = self._description.activation_layout(
                id_.module, module, id_.kind, id_.slot, tuple(tensor.shape)
            )
        except TtraceError as error:
            layout = NoLayout(reason=error.what)
        if not isinstance(layout, RecordedElsewhere):
            self.tensor(id_, tensor, layout)

    def parameter(
        self,
        id_: TensorId,
        named: NamedParameter,
        tensor: torch.Tensor | np.ndarray | FlatPart,
    ) -> None:
        """Records a parameter, or what has its layout, or a flat range of that."""
        part = tensor if isinstance(tensor, FlatPart) else None
        values = tensor.values if isinstance(tensor, FlatPart) else tensor
        try:
            layout = self._description.parameter_layout(named, id_.kind)
            if part is not None and isinstance(layout, ShardLayout):
                stop = part.start + part.values.numel()
                layout = flat_range(layout, part.start, stop)
        except TtraceError as error:
            layout = NoLayout(reason=error.what)
        self.tensor(id_, values, layout)

    def tensor(
        self,
        id_: TensorId,
        tensor: torch.Tensor | np.ndarray,
        layout: ShardLayout | NoLayout,
        *,
        scale: float | None = None,
    ) -> None:
        """Records a tensor of a known layout.

        Args:
            id_: Its identity.
            tensor: Its value. A tensor is copied before the call returns; an array is
                handed over.
            layout: What part of the logical tensor it is, or why that is unknown.
            scale: Known factor over the mathematical value; None for what the
                description says of the kind.
        """
        shape = tuple(tensor.shape)
        if isinstance(layout, NoLayout):
            self.skip(id_, layout.reason)
        elif layout.local_shape != shape:
            self.skip(
                id_,
                f"its shape is {list(shape)}, its layout is for "
                f"{list(layout.local_shape)}",
            )
        elif self.is_active:
            with self._lock:
                if isinstance(tensor, torch.Tensor):
                    try:
                        tensor = self._copies.array_of(tensor)
                    except DtypeError as error:
                        self.skip(id_, error.what)
                        return
                self._add(id_, tensor, layout, scale)

    def skip(self, id_: TensorId, reason: str) -> None:
        """Notes that a tensor was seen and not recorded."""
        with self._lock:
            if self.is_active:
                record = SkippedRecord(
                    id=id_, rank=self._rank, sequence=self._sequence, reason=reason
                )
                self._emit(record, None)

    def _add(
        self,
        id_: TensorId,
        array: np.ndarray,
        layout: ShardLayout,
        scale: float | None,
    ) -> None:
        record = ShardRecord(
            id=id_,
            rank=self._rank,
            sequence=self._sequence,
            dtype=array.dtype.name,
            layout=layout,
            scale=self._description.scale(id_.kind) if scale is None else scale,
            exact_replicas=id_.kind in EXACT_REPLICAS,
        )
        if self._emit(record, array):
            self.num_recorded += 1

    def _emit(
        self, record: ShardRecord | SkippedRecord, array: np.ndarray | None
    ) -> bool:
        try:
            if isinstance(record, ShardRecord):
                assert array is not None
                self._sink.add(record, array)
            else:
                self._sink.skip(record)
            failure = self._sink.failure
        except TensorIdError:
            self._warn_of_repeat(record.id)
            return False
        except (OSError, DtypeError, LayoutError) as error:
            failure = error
        self._sequence += 1
        if failure is not None:
            self.is_active = False
            logging.warning(
                "ttrace: recording stopped, training goes on; the trace stays "
                "incomplete.\n%s",
                failure,
            )
        return failure is None

    def _warn_of_repeat(self, id_: TensorId) -> None:
        if not self._has_warned_of_repeats:
            self._has_warned_of_repeats = True
            logging.warning(
                "ttrace: %s came twice and only the first one is recorded (later "
                "ones are not reported again). Is trace.step() missing at the end of a "
                "step, or did two backward passes run through one graph?",
                id_,
            )
