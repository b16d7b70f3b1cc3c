"""A capture session with what Megatron adds to one: losses, and what it cannot record.

Where experts are shared by data-parallel ranks, one backward brings an expert the
tokens of several micro-batches. Hooks skip that gradient for the micro-batch of their
own rank. For those of the other ranks, where this rank's experts do not exist, it would
be missing without a word.
"""

from typing import Any

from ttrace.frontends.megatron_parts.description import MegatronDescription
from ttrace.frontends.megatron_parts.recorder import ExpertRecords
from ttrace.frontends.megatron_parts.unverified import warn_of_unverified
from ttrace.frontends.torch_parts.capture import Capture, CaptureObserver
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.rank_recorder import OpenSink
from ttrace.recording.request import RecordRequest

_UNUSED = (
    "no computation reads it: with multi-token prediction the last stage computes "
    "logits with its copy of the embedding"
)


class MegatronSession:
    """Records one rank of a Megatron run.

    Args:
        description: Names, layouts and scales of the model.
        request: What to record, and where.
        rank: Global rank of this process.
        world_size: Number of processes of the run.
        open_sink: As in ``CaptureSession``.

    Attributes:
        capture: What any torch framework drives.
    """

    def __init__(
        self,
        description: MegatronDescription,
        request: RecordRequest,
        *,
        rank: int,
        world_size: int,
        open_sink: OpenSink | None = None,
    ):
        self._losses = description.losses
        self._mixed_gradients = _MixedGradients(description)
        observers: list[CaptureObserver] = [
            _StartOfRun(description, is_first_rank=rank == 0),
            self._mixed_gradients,
        ]
        experts = None
        if any(map(request.capture.wants_kind, ACTIVATIONS)):
            experts = ExpertRecords(description.expert_rows())
            observers.append(experts)
        self.capture = CaptureSession(
            description,
            request,
            rank=rank,
            world_size=world_size,
            open_sink=open_sink,
            observers=observers,
            activations=experts,
        )

    def loss_outputs(self, outputs: tuple[Any, ...]) -> None:
        """Records the loss of the micro-batch whose forward ran last.

        Args:
            outputs: What Megatron's loss function returned, before Megatron divides it.
        """
        for loss in self._losses(outputs):
            self.capture.records.loss(
                loss.value, slot=loss.slot, scale=loss.scale, layout=loss.layout
            )

    def expect_microbatches(self, num_local: int) -> None:
        """Says how many micro-batches the running step has on this rank."""
        self._mixed_gradients.expect(num_local)


class _StartOfRun:
    """Says what is known from the start: unverified modules, parameters not used."""

    def __init__(self, description: MegatronDescription, *, is_first_rank: bool):
        self._description = description
        self._is_first_rank = is_first_rank

    def start(self, capture: Capture) -> None:
        if self._is_first_rank:
            warn_of_unverified(module for _, module in self._description.modules())
        for named in self._description.unused_parameters():
            id_ = TensorId(
                step=capture.step,
                module=named.module,
                kind=Kind.PARAM,
                slot=named.slot,
            )
            capture.skip(id_, _UNUSED)

    def end_step(self) -> None:
        pass

    def end(self) -> None:
        pass


class _MixedGradients:
    """Skips gradients of experts for the micro-batches of other ranks."""

    def __init__(self, description: MegatronDescription):
        self._description = description
        self._mixed = description.mixed_gradients()
        self._num_microbatches = 0
        self._capture: Capture | None = None

    def expect(self, num_local: int) -> None:
        """Says how many micro-batches the running step has on this rank."""
        self._num_microbatches = num_local

    def start(self, capture: Capture) -> None:
        self._capture = capture

    def end_step(self) -> None:
        num_local, self._num_microbatches = self._num_microbatches, 0
        capture = self._capture
        if capture is None or capture.recorder_for(Kind.PARAM_GRAD) is None:
            return
        for microbatch in self._description.foreign_microbatches(num_local):
            for named, reason in self._mixed:
                id_ = TensorId(
                    step=capture.step,
                    microbatch=microbatch,
                    module=named.module,
                    kind=Kind.PARAM_GRAD,
                    slot=named.slot,
                )
                capture.skip(id_, reason)

    def end(self) -> None:
        self._capture = None
