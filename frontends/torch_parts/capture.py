"""What the hooks of one session share: where tensors go now, and how calls count."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ttrace.frontends.torch_parts.calls import CallCounter, ModuleCall
from ttrace.frontends.torch_parts.given_tensors import GivenTensors
from ttrace.frontends.torch_parts.noise import Noise
from ttrace.frontends.torch_parts.open_calls import OpenCalls
from ttrace.frontends.torch_parts.recorder import TensorRecorder
from ttrace.frontends.torch_parts.rewriting import Rewriting
from ttrace.frontends.torch_parts.side_passes import SidePasses
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId


@dataclass(slots=True, kw_only=True, eq=False)
class Capture:
    """What the hooks of one session share.

    Graphs may outlive the session and hold hooks; its end therefore clears this.

    Attributes:
        calls: Numbers the module calls.
        recorder: Takes the tensors; None where nothing is recorded, at all or now.
        noise: Changes the tensors; None in a plain run.
        filter: Which tensors are recorded.
        is_paused: Calls are neither recorded nor counted.
        counts_calls: Likewise where False, for calls of modules and for gradients
            alone.
        rewriting: Overwrites what modules are given; None in a plain run.
        open_calls: Told of every call of a module; None where nobody asks for them.
        operations: Likewise; records operations.
        given: What the calls that run were given.
        side_passes: Tells gradients that are not of the training.
    """

    calls: CallCounter
    recorder: TensorRecorder | None = None
    noise: Noise | None = None
    filter: CaptureFilter = field(default_factory=CaptureFilter)
    is_paused: bool = False
    counts_calls: bool = True
    rewriting: Rewriting | None = None
    open_calls: OpenCalls | None = None
    operations: "CallObserver | None" = None
    given: GivenTensors = field(default_factory=GivenTensors)
    side_passes: SidePasses = field(default_factory=SidePasses)

    @property
    def step(self) -> int:
        """The running step, counted from 0."""
        return self.calls.step

    def recorder_of(self, microbatch: int) -> TensorRecorder | None:
        """The recorder, if tensors of a micro-batch are recorded now."""
        recorder, wanted = self.recorder, self.filter.microbatches
        if recorder is None or not recorder.is_active:
            return None
        return recorder if wanted is None or microbatch in wanted else None

    def recorder_for(self, kind: Kind) -> TensorRecorder | None:
        """The recorder, if tensors of a kind are recorded now."""
        recorder = self.recorder
        if recorder is None or not recorder.is_active or self.is_paused:
            return None
        return recorder if self.filter.wants_kind(kind) else None

    def takes_aside(self, id_: TensorId) -> bool:
        """Whether a gradient that arrives now is none of the training's.

        Schedules of pipelines run their backward in passes of any form.
        """
        return not self.calls.is_scheduled and self.side_passes.takes(id_)

    def skip(self, id_: TensorId, reason: str) -> None:
        """Notes that a tensor is not recorded, where the filters want it."""
        recorder = self.recorder_for(id_.kind)
        if recorder is not None and self.filter.wants(id_):
            recorder.skip(id_, reason)


class CallObserver(Protocol):
    """Is told what runs between the hooks on modules."""

    def begin_step(self) -> None:
        """A step begins: calls that never ended are over."""
        ...

    def suspend(self) -> None:
        """Hooks of ttrace run, until a call is entered or left."""
        ...

    def enter(
        self,
        call: ModuleCall,
        module: torch.nn.Module,
        inputs: Iterable[tuple[str, torch.Tensor]],
    ) -> None:
        """The code of a module runs."""
        ...

    def leave(
        self, call: ModuleCall, outputs: Iterable[tuple[str, torch.Tensor]]
    ) -> None:
        """It has run, and that of the module around it goes on."""
        ...


class CaptureObserver(Protocol):
    """Takes part in a session; a frontend brings those that its framework needs.

    None of the methods may raise.
    """

    def start(self, capture: Capture) -> None:
        """The session has started: hooks may be put on, and tensors be skipped."""
        ...

    def end_step(self) -> None:
        """The running step ends, or the session closes in it."""
        ...

    def end(self) -> None:
        """The session has ended: all hooks come off."""
        ...
