"""The capture session: one rank's recording of one run, for any torch framework.

Framework adapters drive it: they give it a description of the model, tell it what
hooks on modules cannot see (``CaptureSession.records``) and where a step ends, and may
bring observers of their own. Nothing here is to be subclassed.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from ttrace.frontends.torch_parts.calls import CallCounter
from ttrace.frontends.torch_parts.capture import Capture, CaptureObserver
from ttrace.frontends.torch_parts.collectives import CollectiveRecords
from ttrace.frontends.torch_parts.description import ModelDescription
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.hooks import ModelHooks
from ttrace.frontends.torch_parts.noise import Noise
from ttrace.frontends.torch_parts.open_calls import OpenCalls
from ttrace.frontends.torch_parts.operations import OperationRecords
from ttrace.frontends.torch_parts.rank_info import rank_info_of
from ttrace.frontends.torch_parts.recorder import ActivationRecords, TensorRecorder
from ttrace.frontends.torch_parts.rewriting import Rewriting
from ttrace.frontends.torch_parts.side_passes import SidePasses
from ttrace.frontends.torch_parts.step_records import StepRecords
from ttrace.frontends.torch_parts.written_parameters import WrittenParameters
from ttrace.ir.kinds import Kind
from ttrace.recording.rank_recorder import (
    OpenSink,
    ProcessRecording,
    RankRecorder,
    open_recorder,
)
from ttrace.recording.request import RecordRequest
from ttrace.recording.rewrites import RankRewrites

_REPEAT_HINT = (
    "Is trace.step() missing at the end of a step, or did two backward passes run "
    "through one graph?"
)

_NOTHING_RECORDED = (
    "nothing was recorded: the model never ran, the filters match none of its tensors, "
    "or kinds of the optimizer were asked for and it was not given: trace(model, "
    "optimizer)"
)


class CaptureSession:
    """Records one rank of one run.

    Between ``start`` and ``close`` the model carries hooks. Steps that are filtered out
    run without them. A rank that is filtered out records nothing but still gets the
    noise of a perturbed run.

    Recording never raises into the training step: what cannot be recorded is skipped
    with a reason, and where the trace cannot be written, one warning is logged and
    training goes on.

    Args:
        description: Names, layouts and scales of the model.
        request: What to record, and where.
        rank: Global rank of this process.
        world_size: Number of processes of the run.
        roots: Modules whose forward is a micro-batch; where None, the one that the
            description names ``@root``. Several (model chunks of a pipeline rank) count
            apart.
        root_method: Name of the method that runs these, where it is not their forward.
        open_sink: Opens what takes the records; None for a trace on disk at
            ``request.out``.
        observers: Told of the start, the steps and the end.
        activations: Asked of each activation before the description; None for no one.
        settings: What else there is to say of the run.
        follows_parameters: What is written to parameters after the optimizer's step is
            recorded, too, where a step ends.

    Attributes:
        records: Takes what hooks on modules cannot see.
    """

    def __init__(
        self,
        description: ModelDescription,
        request: RecordRequest,
        *,
        rank: int,
        world_size: int,
        roots: Sequence[torch.nn.Module] | None = None,
        root_method: str | None = None,
        open_sink: OpenSink | None = None,
        observers: Sequence[CaptureObserver] = (),
        activations: ActivationRecords | None = None,
        settings: Mapping[str, str] | None = None,
        follows_parameters: bool = False,
    ):
        self._description = description
        self._request = request
        self._place = (rank, world_size)
        self._roots = roots
        self._root_method = root_method
        self._open_sink = open_sink
        self._observers = tuple(observers)
        self._activations = activations
        self._settings = settings
        self._capture = Capture(
            calls=CallCounter(description.global_microbatch), filter=request.capture
        )
        self._written = (
            WrittenParameters(description, self._capture)
            if follows_parameters
            else None
        )
        self.records = StepRecords(
            description,
            self._capture,
            before_parameters=self._flush_gradients,
            written=self._written,
        )
        self._rank: RankRecorder | None = None
        self._recorder: TensorRecorder | None = None
        self._hooks: ModelHooks | None = None
        self._has_params = False

    @property
    def step_number(self) -> int:
        """The running step, counted from 0 at ``start``."""
        return self._capture.step

    @property
    def loss_scale(self) -> float:
        """What the loss was multiplied by whose backward runs now."""
        return 1.0 if self._recorder is None else self._recorder.loss_scale

    @loss_scale.setter
    def loss_scale(self, factor: float) -> None:
        if self._recorder is not None:
            self._recorder.loss_scale = factor

    @property
    def is_paused(self) -> bool:
        """Whether what happens now is neither recorded nor counted."""
        return self._capture.is_paused

    @property
    def side_passes(self) -> SidePasses:
        """Tells gradients that are not of the training."""
        return self._capture.side_passes

    def wants(self, kind: Kind) -> bool:
        """Whether tensors of a kind are recorded in the running step."""
        return self.records.wants(kind)

    def start(self) -> None:
        """Opens the trace and puts the hooks on.

        Raises:
            TraceError: The trace cannot be created.
            UsageError: The filters leave no rank.
            TraceError: There are no values to overwrite with, of those asked for.
        """
        rank, world_size = self._place
        self._rank = open_recorder(
            self._request,
            rank_info_of(
                self._description,
                self._request,
                rank=rank,
                world_size=world_size,
                settings=self._settings,
            ),
            open_sink=self._open_sink,
            process=ProcessRecording(repeat_hint=_REPEAT_HINT),
        )
        if self._rank is not None:
            self._recorder = TensorRecorder(
                self._description, self._rank, activations=self._activations
            )
            if self._request.capture.wants_kind(Kind.COLLECTIVE):
                self._capture.open_calls = OpenCalls()
                collectives = CollectiveRecords(self._description, rank)
                self._observers = (*self._observers, collectives)
            if self._request.capture.wants_kind(Kind.OP):
                self._capture.operations = OperationRecords(self._capture, rank)
        if self._request.noise_seed is not None:
            self._capture.noise = Noise(
                self._description, self._request.noise_seed, self._request.noise_dtype
            )
        if self._request.rewrite is not None:
            self._capture.rewriting = Rewriting(
                RankRewrites(self._request.rewrite, rank)
            )
        self._hooks = ModelHooks(
            self._description,
            self._capture,
            roots=self._roots,
            root_method=self._root_method,
            records=self._recorder is not None,
        )
        self._begin_step()
        for observer in self._observers:
            observer.start(self._capture)

    def step(self) -> None:
        """Ends a training step and begins the next one."""
        if self._hooks is not None:
            self._end_step(has_run=True)
            self._capture.calls.next_step()
            self._begin_step()

    def close(self) -> None:
        """Takes the hooks off and completes the trace.

        A trace into which nothing was recorded stays incomplete, unless this is one of
        several ranks and a filter may be the reason.
        """
        # There may be a step that no trace.step() has ended.
        has_run = self._capture.calls.has_run
        self._end_step(has_run=has_run)
        self._end()
        if self._rank is not None:
            self._rank.close(
                nothing_recorded=_NOTHING_RECORDED,
                num_steps=self.step_number + has_run,
            )

    def abort(self, reason: str) -> None:
        """Takes the hooks off and leaves the trace incomplete.

        Args:
            reason: Why, in a few words; readers of the trace are shown them.
        """
        self._end()
        if self._rank is not None:
            self._rank.abort(reason)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Neither records nor counts what runs inside, such as an evaluation."""
        before = self._capture.is_paused
        self._capture.is_paused = True
        try:
            yield
        finally:
            self._capture.is_paused = before

    @guarded("begin a step")
    def _begin_step(self) -> None:
        assert self._hooks is not None
        is_wanted = self._request.capture.wants_step(self.step_number)
        self._capture.recorder = self._recorder if is_wanted else None
        is_recorded = is_wanted and bool(self._recorder and self._recorder.is_active)
        self._hooks.begin_step(is_recorded=is_recorded)
        if is_recorded and not self._has_params:
            self._has_params = True
            self.records.parameters(Kind.PARAM, lambda named: named.parameter)
            self.records.buffers(Kind.BUFFER)
            if self._written is not None and self.wants(Kind.WRITTEN_PARAM):
                self._written.begin()

    def _flush_gradients(self) -> None:
        if self._hooks is not None:
            self._hooks.flush_gradients()

    @guarded("end a step")
    def _end_step(self, *, has_run: bool) -> None:
        if self._hooks is not None:
            self._hooks.end_step()
            if has_run:
                self._hooks.skip_what_is_compiled()
                if self._capture.recorder is not None:
                    self._capture.recorder.state_modules(self.step_number)
                if self._rank is not None and self._capture.rewriting is not None:
                    values = self._capture.rewriting.values
                    self._rank.state(values.statement(self.step_number + 1))
                if self._written is not None:
                    self._written.end_step()
                self.records.buffers(Kind.UPDATED_BUFFER)
            for observer in self._observers:
                observer.end_step()

    def _end(self) -> None:
        """Takes all hooks off; nothing happens where they are off."""
        if self._hooks is not None:
            self._hooks.detach()
            for observer in self._observers:
                observer.end()
        self._hooks = self._recorder = None
        self._capture.recorder = self._capture.noise = None
        self._capture.rewriting = None
        if self._capture.operations is not None:
            self._capture.operations.suspend()
            self._capture.operations = None
