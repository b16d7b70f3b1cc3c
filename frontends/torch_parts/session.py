"""The capture session: one rank's recording of one run, for any torch framework.

Framework adapters drive it: they give it a description of the model and tell it what
hooks on modules cannot see (main gradients, updated parameters, the end of a step).
"""

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from absl import logging

from ttrace.frontends.torch_parts.calls import CallCounter
from ttrace.frontends.torch_parts.description import (
    FlatPart,
    ModelDescription,
    NamedParameter,
    NoLayout,
)
from ttrace.frontends.torch_parts.modules import MODULE_KINDS, Capture, ModuleTap
from ttrace.frontends.torch_parts.noise import Noise
from ttrace.frontends.torch_parts.parameters import ParameterGradients
from ttrace.frontends.torch_parts.recorder import Recorder
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.ir.layout import ShardLayout, whole
from ttrace.ir.skipped_step import overflow_reason, skipped_step_id
from ttrace.ir.tensor_id import ROOT_MODULE, Kind, TensorId
from ttrace.ir.trace import RankInfo
from ttrace.recording.request import RecordRequest
from ttrace.recording.sink import TraceSink
from ttrace.store.writer import TraceWriter

_PER_MICROBATCH = MODULE_KINDS | {Kind.LOSS, Kind.PARAM_GRAD}
"""Kinds for which forwards of the model must be counted."""

Layout = ShardLayout | NoLayout

HeldTensor = torch.Tensor | FlatPart | NoLayout | None
"""What a rank holds of a parameter's tensor: the whole of its shard, a flat range of
it, a reason to skip it, or nothing."""


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
        sink: Takes the records; None for a trace on disk at ``request.out``.
    """

    def __init__(
        self,
        description: ModelDescription,
        request: RecordRequest,
        *,
        rank: int,
        world_size: int,
        roots: Sequence[torch.nn.Module] | None = None,
        sink: TraceSink | None = None,
    ):
        self._description = description
        self._request = request
        self._rank = rank
        self._world_size = world_size
        self._roots = roots
        self._sink = sink
        self._recorder: Recorder | None = None
        self._capture = Capture(
            calls=CallCounter(description.global_microbatch),
            microbatches=request.capture.microbatches,
        )
        self._taps: list[ModuleTap] = []
        self._gradients: ParameterGradients | None = None
        self._is_open = False
        self._has_params = False

    @property
    def step_number(self) -> int:
        """The running step, counted from 0 at ``start``."""
        return self._capture.calls.step

    def start(self) -> None:
        """Opens the trace and puts the hooks on.

        Raises:
            TraceError: The trace cannot be created.
            UsageError: The filters leave no rank.
        """
        info = self._rank_info()
        if self._rank in info.recorded_ranks:
            if self._sink is None:
                self._sink = TraceWriter(self._request.out, info)
            self._recorder = self._make_recorder(self._sink)
        if self._request.noise_seed is not None:
            self._capture.noise = Noise(self._description, self._request.noise_seed)
        self._is_open = True
        self._make_hooks()
        self._begin_step()

    def step(self) -> None:
        """Ends a training step and begins the next one."""
        if self._is_open:
            self._flush_gradients()
            self._capture.calls.next_step()
            self._begin_step()

    def close(self) -> None:
        """Takes the hooks off and completes the trace.

        A trace into which nothing was recorded stays incomplete, unless this is one of
        several ranks and a filter may be the reason.
        """
        self._flush_gradients()
        recorder = self._end()
        if recorder is None or self._sink is None:
            return
        is_plausible = self._world_size > 1 and self._request.capture.to_json()
        if recorder.num_recorded or is_plausible:
            self._sink.close()
        else:
            self._sink.abort(
                "nothing was recorded: the model never ran, or the filters match none "
                "of its tensors"
            )
        if self._sink.failure is not None and recorder.is_active:
            logging.warning("ttrace: the trace is incomplete.\n%s", self._sink.failure)

    def abort(self, reason: str) -> None:
        """Takes the hooks off and leaves the trace incomplete.

        Args:
            reason: Why, in a few words; readers of the trace are shown them.
        """
        if self._end() is not None and self._sink is not None:
            self._sink.abort(reason)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Neither records nor counts what runs inside, such as an evaluation."""
        before = self._capture.is_paused
        self._capture.is_paused = True
        try:
            yield
        finally:
            self._capture.is_paused = before

    def wants(self, kind: Kind) -> bool:
        """Whether tensors of a kind are recorded in the running step."""
        recorder = self._capture.recorder
        return (
            recorder is not None
            and recorder.is_active
            and not self._capture.is_paused
            and self._request.capture.wants_kind(kind)
        )

    def loss(
        self,
        value: torch.Tensor | float,
        *,
        slot: str | None = None,
        microbatch: int | None = None,
        scale: float | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Records the loss of a micro-batch.

        Args:
            value: A scalar; a Python number is recorded as float64.
            slot: Sets several of a micro-batch apart.
            microbatch: This rank's nth micro-batch of the step; where None, the one
                whose forward ran last.
            scale: Known factor over the mathematical value; where None, what the
                description says of the kind.
            layout: For a loss that is not a whole scalar on every rank.
        """
        if microbatch is None:
            index = self._capture.calls.microbatch
        else:
            index = self._description.global_microbatch(microbatch)
        id_ = TensorId(
            step=self.step_number,
            microbatch=index,
            module=ROOT_MODULE,
            kind=Kind.LOSS,
            slot=slot,
        )
        self._record(id_, value, layout or self._scalar_layout(), scale=scale)

    def record_scalar(
        self,
        kind: Kind,
        value: torch.Tensor | float,
        *,
        slot: str | None = None,
        scale: float | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Records a scalar of the whole step: ``grad_norm``, ``learning_rate``.

        Args:
            kind: What it is.
            value: As in ``loss``.
            slot: Sets several of a kind apart, e.g. ``group0``.
            scale: As in ``loss``.
            layout: As in ``loss``.
        """
        id_ = TensorId(step=self.step_number, module=ROOT_MODULE, kind=kind, slot=slot)
        self._record(id_, value, layout or self._scalar_layout(), scale=scale)

    def skipped_step(self, loss_scale: float) -> None:
        """Notes that the optimizer skipped the running step: its gradients overflowed.

        Args:
            loss_scale: The scale that the gradients overflowed at.
        """
        recorder, step = self._capture.recorder, self.step_number
        if recorder is not None and not self._capture.is_paused:
            recorder.skip(skipped_step_id(step), overflow_reason(step, loss_scale))

    def record_parameters(
        self,
        kind: Kind,
        getter: Callable[[NamedParameter], HeldTensor],
    ) -> None:
        """Records one tensor per parameter.

        Args:
            kind: ``main_grad``, ``updated_param`` or another kind of the whole step.
            getter: The tensor that this rank holds for a parameter, in the layout that
                the description gives for the kind; a flat range of it; a reason to
                skip it; or None where this rank holds nothing.
        """
        self._flush_gradients()  # they come first in the order of a step
        if self.wants(kind):
            for named in self._description.parameters():
                self._record_parameter(kind, named, named.slot, getter(named))

    def record_optimizer_state(
        self,
        getter: Callable[
            [NamedParameter], Mapping[str, HeldTensor | float] | NoLayout | None
        ],
    ) -> None:
        """Records the optimizer's state, in slots such as ``weight.exp_avg``.

        Args:
            getter: The state that this rank holds for a parameter, by name: tensors in
                the layout that the description gives for the kind, flat ranges of
                them, and scalars. A reason to skip it. None where this rank holds
                nothing.
        """
        if self.wants(Kind.OPTIMIZER_STATE):
            for named in self._description.parameters():
                state = getter(named) or {}
                if isinstance(state, NoLayout):
                    self._record_parameter(
                        Kind.OPTIMIZER_STATE, named, named.slot, state
                    )
                    continue
                for name, value in state.items():
                    slot = clean_name(f"{named.slot}.{name}")
                    self._record_parameter(Kind.OPTIMIZER_STATE, named, slot, value)

    def _record_parameter(
        self,
        kind: Kind,
        named: NamedParameter,
        slot: str,
        value: HeldTensor | float,
    ) -> None:
        id_ = TensorId(step=self.step_number, module=named.module, kind=kind, slot=slot)
        if isinstance(value, NoLayout):
            self._record(id_, 0.0, value)
        elif isinstance(value, FlatPart) or (
            isinstance(value, torch.Tensor)
            and (value.dim() or not named.parameter.dim())
        ):
            self._record(id_, value, named)
        elif value is not None:
            self._record(id_, value, self._scalar_layout())

    def _record(
        self,
        id_: TensorId,
        value: torch.Tensor | FlatPart | float,
        place: NamedParameter | Layout,
        *,
        scale: float | None = None,
    ) -> None:
        """Records what hooks do not see, where the filters want it."""
        if not self.wants(id_.kind) or not self._request.capture.wants(id_):
            return
        recorder = self._capture.recorder
        assert recorder is not None
        if isinstance(place, NamedParameter):
            assert isinstance(value, torch.Tensor | FlatPart)
            recorder.parameter(id_, place, value)
        else:
            assert not isinstance(value, FlatPart)
            array = value if isinstance(value, torch.Tensor) else np.array(float(value))
            recorder.tensor(id_, array, place, scale=scale)

    def _scalar_layout(self) -> Layout:
        meshes = self._description.meshes()
        return whole((), meshes[0].name if meshes else "")

    def _make_hooks(self) -> None:
        capture_filter = self._request.capture
        records = self._recorder is not None
        kinds = frozenset(filter(capture_filter.wants_kind, MODULE_KINDS))
        counts = records and any(map(capture_filter.wants_kind, _PER_MICROBATCH))
        noise = self._capture.noise is not None
        roots = None if self._roots is None else set(map(id, self._roots))
        chunks: collections.Counter[str] = collections.Counter()
        for path, module in self._description.modules():
            chunk = chunks[path]
            chunks[path] += 1
            is_root = path == ROOT_MODULE if roots is None else id(module) in roots
            wanted = records and capture_filter.wants_module(path)
            if noise or (wanted and kinds) or (is_root and counts):
                self._taps.append(
                    ModuleTap(
                        clean_name(path),
                        module,
                        self._capture,
                        kinds=kinds if wanted else frozenset(),
                        is_root=is_root,
                        chunk=chunk,
                        num_earlier=self._description.num_earlier_calls(path, module),
                    )
                )
        if records and capture_filter.wants_kind(Kind.PARAM_GRAD):
            self._gradients = ParameterGradients(
                filter(
                    lambda named: capture_filter.wants_module(named.module),
                    self._description.parameters(),
                ),
                self._capture,
            )

    def _begin_step(self) -> None:
        """Puts on the hooks that the step needs, and takes the others off."""
        is_wanted = self._request.capture.wants_step(self.step_number)
        self._capture.recorder = self._recorder if is_wanted else None
        is_recorded = is_wanted and bool(self._recorder and self._recorder.is_active)
        for tap in self._taps:
            if is_recorded or self._capture.noise is not None:
                tap.attach()
                tap.forget_open_calls()
            else:
                tap.detach()
        if self._gradients is not None:
            if is_recorded:
                self._gradients.attach()
            else:
                self._gradients.detach()
        if is_recorded and not self._has_params:
            self._has_params = True
            self.record_parameters(Kind.PARAM, lambda named: named.parameter)

    def _flush_gradients(self) -> None:
        if self._gradients is not None:
            self._gradients.flush()

    def _make_recorder(self, sink: TraceSink) -> Recorder:
        """The recorder of this rank; frameworks may bring one of their own."""
        return Recorder(self._description, sink, rank=self._rank)

    def _end(self) -> Recorder | None:
        """Takes all hooks off; the recorder, or None where it had ended before."""
        recorder, self._recorder = self._recorder, None
        for tap in self._taps:
            tap.detach()
        if self._gradients is not None:
            self._gradients.detach()
        self._capture.recorder = self._capture.noise = None
        self._is_open = False
        return recorder

    def _rank_info(self) -> RankInfo:
        capture_filter = self._request.capture
        dtypes = {
            str(named.parameter.dtype).removeprefix("torch.")
            for named in self._description.parameters()
        }
        return RankInfo(
            run_id=self._request.run_id,
            rank=self._rank,
            world_size=self._world_size,
            recorded_ranks=capture_filter.recorded_ranks(self._world_size),
            framework=self._description.framework,
            versions=self._description.versions(),
            meshes=self._description.meshes(),
            settings={
                **self._description.settings(),
                "parameter_dtypes": ",".join(sorted(dtypes)),
                "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            },
            capture=capture_filter.to_json(),
            noise_seed=self._request.noise_seed,
        )
