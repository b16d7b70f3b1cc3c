"""What hooks on modules cannot see of a step: adapters tell it, and it is recorded."""

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch

from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.compiled import own_buffers
from ttrace.frontends.torch_parts.description import ModelDescription, NamedParameter
from ttrace.frontends.torch_parts.gradient_sync import unreduced_modules
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import FlatPart, NoLayout
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.frontends.torch_parts.written_parameters import WrittenParameters
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import ShardLayout, whole
from ttrace.ir.optimizer_settings import SettingValue
from ttrace.ir.skipped_step import overflow_reason, skipped_step_id
from ttrace.ir.step_notes import (
    SCALED_CLIPS,
    UNREDUCED,
    UNSCALED_BACKWARDS,
    steps_text,
)
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.recording.faults import reason_of

_Held = TypeVar("_Held")

Layout = ShardLayout | NoLayout

HeldTensor = torch.Tensor | FlatPart | NoLayout | None
"""What a rank holds of a parameter's tensor: the whole of its shard, a flat range of
it, a reason to skip it, or nothing."""

ParameterWriter = Callable[[NamedParameter, torch.Tensor | FlatPart], None]
"""Records what this rank holds of a parameter now."""


class StepRecords:
    """Records losses, scalars, and what an optimizer holds, in the running step.

    Args:
        description: Of the model.
        capture: Where tensors go now.
        before_parameters: Called before tensors of parameters are recorded: what hooks
            have collected comes first in the order of a step.
        written: Told of updated parameters; None where nobody asks what is written to
            them afterwards.
    """

    def __init__(
        self,
        description: ModelDescription,
        capture: Capture,
        *,
        before_parameters: Callable[[], None],
        written: WrittenParameters | None = None,
    ):
        self._description = description
        self._capture = capture
        self._before_parameters = before_parameters
        self._written = written
        self._unreduced: dict[str, list[int]] = {}
        self._noted_scales: dict[str, list[int]] = {}
        self._losses: tuple[int, collections.Counter[tuple[int, str | None]]]
        self._losses = -1, collections.Counter()

    def named_parameters(self) -> Iterator[NamedParameter]:
        """Every parameter of this rank, in the order of a forward pass."""
        return self._description.parameters()

    def wants(self, kind: Kind) -> bool:
        """Whether tensors of a kind are recorded in the running step."""
        return self._capture.recorder_for(kind) is not None

    @guarded("record a loss")
    def loss(
        self,
        value: torch.Tensor | float,
        *,
        slot: str | None = None,
        microbatch: int | None = None,
        scale: float | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Records the loss of a micro-batch; of several of one the nth as call n.

        Args:
            value: A scalar; a Python number is recorded as float64.
            slot: Sets several of a micro-batch apart.
            microbatch: This rank's nth micro-batch of the step; where None, the one
                whose forward ran last.
            scale: Known factor over the mathematical value; where None, what the
                description says of the kind.
            layout: For a loss that is not a whole scalar on every rank.
        """
        if not self._capture.counts_calls and not self._capture.calls.has_run:
            return  # a pipeline only learns the shapes
        if microbatch is None:
            index = self._capture.calls.microbatch
        else:
            index = self._description.global_microbatch(microbatch)
        if self._capture.is_paused:
            return
        step, losses = self._losses
        if step != self._capture.step:
            losses = collections.Counter()
            self._losses = self._capture.step, losses
        id_ = TensorId(
            step=self._capture.step,
            microbatch=index,
            module=ROOT_MODULE,
            kind=Kind.LOSS,
            slot=slot,
            call=losses[index, slot],
        )
        losses[index, slot] += 1
        self._record_scalar(id_, value, layout, scale)

    @guarded("record a number of the step")
    def scalar(
        self,
        kind: Kind,
        value: torch.Tensor | float,
        *,
        slot: str | None = None,
        call: int = 0,
        scale: float | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Records a scalar of the whole step: ``grad_norm``, ``learning_rate``.

        Args:
            kind: What it is.
            value: As in ``loss``.
            slot: Sets several of a kind apart, e.g. ``group0``.
            call: Nth call of the optimizer's closure in the step.
            scale: As in ``loss``.
            layout: As in ``loss``.
        """
        id_ = TensorId(
            step=self._capture.step, module=ROOT_MODULE, kind=kind, slot=slot, call=call
        )
        self._record_scalar(id_, value, layout, scale)

    @guarded("record the settings of an optimizer")
    def optimizer_settings(
        self, find_settings: Callable[[], Mapping[str, SettingValue]]
    ) -> None:
        """States what an optimizer is set to in the running step.

        Args:
            find_settings: Reads it, by the keys of ``ttrace.ir.optimizer_settings``.
        """
        recorder = self._capture.recorder
        if recorder is not None and recorder.is_active and not self._capture.is_paused:
            recorder.state_optimizer(self._capture.step, find_settings())

    @guarded("tell whether gradients are reduced")
    def unreduced_gradients(self) -> None:
        """States FSDP2 modules that reduce no gradients as the optimizer steps."""
        recorder, step = self._capture.recorder, self._capture.step
        if recorder is None or not recorder.is_active or self._capture.is_paused:
            return
        what = unreduced_modules(self._description.modules())
        if what is not None:
            steps = self._unreduced.setdefault(what, [])
            if step not in steps:
                steps.append(step)
                recorder.state({UNREDUCED: steps_text(steps, what)})

    @guarded("tell that clipped gradients are scaled")
    def clips_of_scaled(self, loss_scale: float) -> None:
        """States that gradients are clipped with a loss scale still in them.

        Args:
            loss_scale: What the loss was multiplied by; of 1 nothing is stated.
        """
        self._note_scale(SCALED_CLIPS, loss_scale)

    @guarded("tell that gradients were never scaled")
    def unscaled_backward(self, loss_scale: float) -> None:
        """States that a scaler divides gradients of a loss that it did not multiply.

        Args:
            loss_scale: What it divides by; of 1 nothing is stated.
        """
        self._note_scale(UNSCALED_BACKWARDS, loss_scale)

    def _note_scale(self, note: str, loss_scale: float) -> None:
        recorder, step = self._capture.recorder, self._capture.step
        if recorder is None or not recorder.is_active or self._capture.is_paused:
            return
        if loss_scale == 1:
            return
        key = f"{note}.{loss_scale:.15g}"
        steps = self._noted_scales.setdefault(key, [])
        if step not in steps:
            steps.append(step)
            recorder.state({key: steps_text(steps, f"{loss_scale:.15g}")})

    def skipped_step(self, loss_scale: float) -> None:
        """Notes that the optimizer skipped the running step: its gradients overflowed.

        Args:
            loss_scale: The scale that the gradients overflowed at.
        """
        recorder, step = self._capture.recorder, self._capture.step
        if recorder is not None and not self._capture.is_paused:
            recorder.skip(skipped_step_id(step), overflow_reason(step, loss_scale))

    def parameters(
        self,
        kind: Kind,
        getter: Callable[[NamedParameter], HeldTensor],
        *,
        call: int = 0,
    ) -> None:
        """Records one tensor per parameter.

        Args:
            kind: ``main_grad``, ``updated_param`` or another kind of the whole step.
            getter: The tensor that this rank holds for a parameter, in the layout that
                the description gives for the kind; a flat range of it; a reason to
                skip it; or None where this rank holds nothing.
            call: Nth call of the optimizer's closure in the step.
        """
        self._before_parameters()
        if self.wants(kind):
            for named in self._description.parameters():
                value = _asked(getter, named)
                self._record_parameter(kind, named, named.slot, value, call=call)

    def buffers(
        self,
        kind: Kind,
        averages: Mapping[str, torch.nn.Module] | None = None,
        *,
        suffix: str = "",
    ) -> None:
        """Records every buffer of every module as it is now, persistent or not.

        Args:
            kind: ``buffer`` or ``updated_buffer``.
            averages: Modules whose buffers are recorded in the place of those of the
                model's, by path; None for the model's own.
            suffix: Goes behind the names of the buffers.
        """
        recorder = self._capture.recorder_for(kind)
        if recorder is None:
            return
        for path, module in self._description.modules():
            name = clean_name(path)
            holder = module if averages is None else averages.get(name)
            for slot, tensor in (holder is not None and _buffers_of(holder)) or []:
                id_ = TensorId(
                    step=self._capture.step,
                    module=name,
                    kind=kind,
                    slot=clean_name(slot) + suffix,
                )
                if self._capture.filter.wants(id_):
                    recorder.buffer(id_, module, tensor)

    def parameter_writer(self, kind: Kind) -> ParameterWriter | None:
        """Records tensors of the step that runs now, also after it has ended.

        Args:
            kind: A kind of the whole step.

        Returns:
            The function that takes them; None where they are not wanted.
        """
        recorder, step = self._capture.recorder_for(kind), self._capture.step
        if recorder is None:
            return None

        def write(named: NamedParameter, value: torch.Tensor | FlatPart) -> None:
            id_ = TensorId(step=step, module=named.module, kind=kind, slot=named.slot)
            if self._capture.filter.wants(id_):
                recorder.parameter(id_, named, value)

        return write

    def optimizer_state(
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
        kind = Kind.OPTIMIZER_STATE
        if not self.wants(kind):
            return
        for named in self._description.parameters():
            state = _asked(getter, named)
            if isinstance(state, NoLayout):
                self._record_parameter(kind, named, named.slot, state)
                continue
            for name, value in (state or {}).items():
                slot = clean_name(f"{named.slot}.{name}")
                self._record_parameter(kind, named, slot, value)

    def _record_parameter(
        self,
        kind: Kind,
        named: NamedParameter,
        slot: str,
        value: HeldTensor | float,
        *,
        call: int = 0,
    ) -> None:
        id_ = TensorId(
            step=self._capture.step,
            module=named.module,
            kind=kind,
            slot=slot,
            call=call,
        )
        if isinstance(value, NoLayout):
            self._capture.skip(id_, value.reason)
        elif isinstance(value, FlatPart) or (
            isinstance(value, torch.Tensor)
            and (value.dim() or not named.parameter.dim())
        ):
            recorder = self._capture.recorder_for(kind)
            if recorder is not None and self._capture.filter.wants(id_):
                answer = recorder.describe_parameter(id_, named, value)
                recorder.answer(id_, answer)
                if self._written is not None and kind is Kind.UPDATED_PARAM:
                    self._written.note(id_, named, answer)
        elif value is not None:
            self._record_scalar(id_, value, None, None)

    def _record_scalar(
        self,
        id_: TensorId,
        value: torch.Tensor | float,
        layout: Layout | None,
        scale: float | None,
    ) -> None:
        recorder = self._capture.recorder_for(id_.kind)
        if recorder is None or not self._capture.filter.wants(id_):
            return
        layout = layout or self._scalar_layout()
        if isinstance(layout, NoLayout):
            recorder.skip(id_, layout.reason)
        elif isinstance(value, torch.Tensor):
            recorder.tensor(id_, value, layout, scale=scale)
        else:
            recorder.array(id_, np.array(float(value)), layout, scale=scale)

    def _scalar_layout(self) -> ShardLayout:
        meshes = self._description.meshes()
        return whole((), meshes[0].name if meshes else "")


@guarded("find the buffers of a module")
def _buffers_of(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, buffer)
        for name, buffer in own_buffers(module).items()
        if isinstance(buffer, torch.Tensor)
    ]


def _asked(
    getter: Callable[[NamedParameter], _Held], named: NamedParameter
) -> _Held | NoLayout:
    """What an adapter answers of a parameter; a reason where it fails."""
    try:
        return getter(named)
    except Exception as error:
        return NoLayout(reason=reason_of(error, "find what this rank holds of it"))
