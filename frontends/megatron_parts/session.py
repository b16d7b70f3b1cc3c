"""A capture session that also accounts for gradients which no rank can record.

Where experts are shared by data-parallel ranks, one backward brings an expert the
tokens of several micro-batches. Hooks skip that gradient for the micro-batch of their
own rank. For those of the other ranks, where this rank's experts do not exist, it would
be missing without a word.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ttrace.frontends.megatron_parts.description import MegatronDescription
from ttrace.frontends.megatron_parts.recorder import MegatronRecorder
from ttrace.frontends.megatron_parts.unverified import warn_of_unverified
from ttrace.frontends.torch_parts.description import FlatPart, NamedParameter
from ttrace.frontends.torch_parts.modules import MODULE_KINDS
from ttrace.frontends.torch_parts.recorder import Recorder
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.ir.tensor_id import Kind, TensorId
from ttrace.recording.request import RecordRequest
from ttrace.recording.sink import TraceSink

ParameterWriter = Callable[[NamedParameter, torch.Tensor | FlatPart], None]
"""Records what this rank holds of a parameter now."""


_UNUSED = (
    "no computation reads it: with multi-token prediction the last stage computes "
    "logits with its copy of the embedding"
)


class MegatronSession(CaptureSession):
    """Records one rank of a Megatron run.

    Args:
        description: Names, layouts and scales of the model.
        request: What to record, and where.
        rank: Global rank of this process.
        world_size: Number of processes of the run.
    """

    def __init__(
        self,
        description: MegatronDescription,
        request: RecordRequest,
        *,
        rank: int,
        world_size: int,
    ):
        super().__init__(description, request, rank=rank, world_size=world_size)
        self._losses = description.losses
        self._unused = description.unused_parameters()
        self._mixed = description.mixed_gradients()
        self._foreign_microbatches = description.foreign_microbatches
        self._num_microbatches = 0
        self._expert_rows = description.expert_rows
        self._row_recorder: MegatronRecorder | None = None

    def start(self) -> None:
        super().start()
        if self._rank == 0:
            warn_of_unverified(module for _, module in self._description.modules())
        if self._row_recorder is not None:
            self._row_recorder.attach()
        recorder = self._capture.recorder
        for named in self._unused:
            id_ = TensorId(
                step=self.step_number,
                module=named.module,
                kind=Kind.PARAM,
                slot=named.slot,
            )
            if recorder is not None and self._request.capture.wants(id_):
                recorder.skip(id_, _UNUSED)

    def loss_outputs(self, outputs: tuple[Any, ...]) -> None:
        """Records the loss of the micro-batch whose forward ran last.

        Args:
            outputs: What Megatron's loss function returned, before Megatron divides it.
        """
        for loss in self._losses(outputs):
            self.loss(loss.value, slot=loss.slot, scale=loss.scale, layout=loss.layout)

    def expect_microbatches(self, num_local: int) -> None:
        """Says how many micro-batches the running step has on this rank."""
        self._num_microbatches = num_local

    def parameters(self) -> Iterator[NamedParameter]:
        """Every parameter of this rank, in the order of a forward pass."""
        return self._description.parameters()

    def parameter_writer(self, kind: Kind) -> ParameterWriter | None:
        """Records tensors of the step that runs now, also after it has ended.

        Args:
            kind: A kind of the whole step.

        Returns:
            The function that takes them; None where they are not wanted.
        """
        recorder, step = self._capture.recorder, self.step_number
        if recorder is None or not self.wants(kind):
            return None

        def write(named: NamedParameter, value: torch.Tensor | FlatPart) -> None:
            id_ = TensorId(step=step, module=named.module, kind=kind, slot=named.slot)
            if self._request.capture.wants(id_):
                recorder.parameter(id_, named, value)

        return write

    def step(self) -> None:
        self._skip_mixed_gradients()
        if self._row_recorder is not None:
            self._row_recorder.forget_calls()
        super().step()

    def close(self) -> None:
        self._skip_mixed_gradients()
        super().close()

    def _make_recorder(self, sink: TraceSink) -> Recorder:
        capture = self._request.capture
        if not any(map(capture.wants_kind, MODULE_KINDS)):
            return super()._make_recorder(sink)
        self._row_recorder = MegatronRecorder(
            self._description,
            sink,
            rank=self._rank,
            capture=self._capture,
            layers=self._expert_rows(),
            wants=capture.wants,
            is_filtered=capture.microbatches is not None,
        )
        return self._row_recorder

    def _end(self) -> Recorder | None:
        if self._row_recorder is not None:
            self._row_recorder.detach()
        return super()._end()

    def _skip_mixed_gradients(self) -> None:
        num_local, self._num_microbatches = self._num_microbatches, 0
        recorder = self._capture.recorder
        if recorder is None or not self.wants(Kind.PARAM_GRAD):
            return
        for microbatch in self._foreign_microbatches(num_local):
            for named, reason in self._mixed:
                id_ = TensorId(
                    step=self.step_number,
                    microbatch=microbatch,
                    module=named.module,
                    kind=Kind.PARAM_GRAD,
                    slot=named.slot,
                )
                if self._request.capture.wants(id_):
                    recorder.skip(id_, reason)
