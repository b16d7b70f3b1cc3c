"""Turns observed torch tensors into records of a trace, or into visible skips."""

import dataclasses
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from ttrace.frontends.torch_parts.arrays import RecentCopies
from ttrace.frontends.torch_parts.autocast import OFF, autocast_state
from ttrace.frontends.torch_parts.description import ModelDescription, NamedParameter
from ttrace.frontends.torch_parts.dropout import DropoutRates
from ttrace.frontends.torch_parts.local_tensor import (
    Answer,
    FlatPart,
    LocalTensor,
    NoLayout,
    RecordedElsewhere,
)
from ttrace.frontends.torch_parts.module_settings import ModuleSettings
from ttrace.frontends.torch_parts.tensors import local_tensor
from ttrace.ir.collective import OWN, CollectivePart
from ttrace.ir.dims_text import flat_part
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout, whole
from ttrace.ir.operation import OperationPart
from ttrace.ir.optimizer_settings import SettingHistory, SettingValue
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.faults import reason_of
from ttrace.recording.rank_recorder import RankRecorder

_OF_BACKWARD = frozenset({Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD})


class ActivationRecords(Protocol):
    """Says of some activations that they are several records, or under another id."""

    def records_of(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> Iterable[tuple[TensorId, Answer]] | None:
        """The records of an activation; None where the description knows its one."""
        ...


class TensorRecorder:
    """Records tensors of one rank. Never raises into the training step.

    A tensor that cannot be stored, whose layout does not fit it, or that ttrace itself
    fails at, is skipped with the reason.

    Args:
        description: Layouts and scales.
        rank: Takes the records.
        activations: Asked of each activation before the description; None for no one.

    Attributes:
        loss_scale: What the loss was multiplied by whose backward runs now. A part of
            the scale of the gradients that come from it.
    """

    def __init__(
        self,
        description: ModelDescription,
        rank: RankRecorder,
        *,
        activations: ActivationRecords | None = None,
    ):
        self.loss_scale = 1.0
        self._description = description
        self._rank = rank
        self._activations = activations
        self._meshes = {mesh.name: mesh for mesh in rank.info.meshes}
        self._copies = RecentCopies()
        # The backward of each device runs its hooks in a thread of its own.
        self._lock = threading.Lock()
        self._autocast: str | None = None
        self._optimizer = SettingHistory()
        self._dropout = DropoutRates()
        self._modules = ModuleSettings()

    @property
    def is_active(self) -> bool:
        """Whether records are still taken."""
        return self._rank.is_active

    def activation(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> None:
        """Records an input or output of a module, or the gradient of one."""
        assert id_.slot is not None
        try:
            records = None
            if self._activations is not None:
                records = self._activations.records_of(id_, module, tensor)
            if records is None:
                answer = self._description.activation(
                    id_.module, module, id_.kind, id_.slot, tensor
                )
                records = [(id_, answer)]
            for record_id, answer in records:
                self.answer(record_id, answer)
        except Exception as error:
            self.skip(id_, reason_of(error, "describe it"))

    def buffer(
        self, id_: TensorId, module: torch.nn.Module, tensor: torch.Tensor
    ) -> None:
        """Records a buffer of a module."""
        assert id_.slot is not None
        try:
            answer = self._description.buffer(
                id_.module, module, id_.kind, id_.slot, tensor
            )
        except Exception as error:
            answer = NoLayout(reason=reason_of(error, "describe it"))
        self.answer(id_, answer)

    def parameter(
        self, id_: TensorId, named: NamedParameter, tensor: torch.Tensor | FlatPart
    ) -> None:
        """Records a parameter, or what has its layout, or a flat range of that."""
        self.answer(id_, self.describe_parameter(id_, named, tensor))

    def describe_parameter(
        self, id_: TensorId, named: NamedParameter, tensor: torch.Tensor | FlatPart
    ) -> Answer:
        """What this rank holds of a parameter, or of what has its layout."""
        try:
            if not isinstance(tensor, FlatPart):
                return self._description.parameter(named, id_.kind, tensor)
            answer = self._description.parameter(named, id_.kind, tensor.values)
            if isinstance(answer, LocalTensor):
                stop = tensor.start + answer.values.numel()
                layout = flat_part(answer.layout, tensor.start, stop)
                return dataclasses.replace(answer, layout=layout)
            return answer
        except Exception as error:
            return NoLayout(reason=reason_of(error, "describe it"))

    def tensor(
        self,
        id_: TensorId,
        tensor: torch.Tensor,
        layout: ShardLayout | NoLayout,
        *,
        scale: float | None = None,
    ) -> None:
        """Records a tensor.

        Args:
            id_: Its identity.
            tensor: Its value; copied before the call returns.
            layout: That of a plain tensor, or why it is not known; one that says its
                layout itself has that one.
            scale: Known factor over the mathematical value; None for what the
                description says of the kind.
        """
        try:
            answer = local_tensor(tensor, lambda _: layout)
        except Exception as error:
            answer = NoLayout(reason=reason_of(error, "describe it"))
        self.answer(id_, answer, scale=scale)

    def collective(
        self, id_: TensorId, tensor: torch.Tensor, part: CollectivePart
    ) -> None:
        """Records an operand or a result of a collective, as this rank has it.

        Args:
            id_: Its identity, which names the rank.
            tensor: A plain tensor; copied before the call returns.
            part: Of which collective.
        """
        array = self._own_array(id_, tensor)
        if array is not None:
            self._rank.add(id_, array, whole(array.shape, OWN), collective=part)

    def operation(
        self, id_: TensorId, tensor: torch.Tensor, part: OperationPart
    ) -> None:
        """Likewise, of a single operation."""
        array = self._own_array(id_, tensor)
        if array is not None:
            self._rank.add(id_, array, whole(array.shape, OWN), operation=part)

    def answer(
        self, id_: TensorId, answer: Answer, *, scale: float | None = None
    ) -> None:
        """Records what a description answered.

        Args:
            id_: Identity of the tensor.
            answer: Its values, which are copied before the call returns, and layout; or
                why there is nothing to record.
            scale: As in ``tensor``.
        """
        if isinstance(answer, RecordedElsewhere) or not self.is_active:
            return
        try:
            reason = self.refusal(answer)
            if reason is not None:
                self.skip(id_, reason)
                return
            assert isinstance(answer, LocalTensor)
            with self._lock:
                array = self._copies.array_of(answer.values)
        except Exception as error:
            self.skip(id_, reason_of(error, "copy it"))
            return
        self.array(id_, array, answer.layout, scale=scale)

    def refusal(self, answer: LocalTensor | NoLayout) -> str | None:
        """Why what a description answered cannot be recorded, as far as that shows."""
        if isinstance(answer, NoLayout):
            return answer.reason
        shape, expected = tuple(answer.values.shape), answer.layout.local_shape
        if shape != expected:
            return f"its shape is {list(shape)}, its layout is for {list(expected)}"
        return self._refusal_of_mesh(answer.layout.mesh, answer.mesh)

    def array(
        self,
        id_: TensorId,
        array: np.ndarray,
        layout: ShardLayout,
        *,
        scale: float | None = None,
        loss_scale: float | None = None,
    ) -> None:
        """Records an array, which is handed over.

        Args:
            id_: Identity of the tensor.
            array: Its values.
            layout: What part of the logical tensor they are.
            scale: As in ``tensor``.
            loss_scale: That of the backward that made a gradient; None for the one
                that runs now.
        """
        try:
            factor = self._description.scale(id_.kind) if scale is None else scale
            if scale is None and id_.kind in _OF_BACKWARD:
                factor *= self.loss_scale if loss_scale is None else loss_scale
        except Exception as error:
            self.skip(id_, reason_of(error, "tell its scale"))
            return
        self._rank.add(id_, array, layout, scale=factor)

    def state_autocast(self) -> None:
        """Records whether torch casts operands here; once it does, that is all.

        Some wrap the loop into it, some the forward of the model.
        """
        if self._autocast in (None, OFF):
            state = autocast_state()
            if state != self._autocast:
                self._autocast = state
                self._rank.state({"autocast": state})

    def note_module(
        self,
        path: str,
        module: torch.nn.Module,
        args: Sequence[object],
        kwargs: Mapping[str, object],
    ) -> None:
        """Notes what a module runs with: its configuration, its rates of dropout.

        And what it is given beside tensors.
        """
        self._dropout.note(path, module)
        self._modules.note(path, module, args, kwargs)

    def state_modules(self, step: int) -> None:
        """Records what modules ran with in a step that ends, unless that was said."""
        stated = {**self._dropout.end_step(step), **self._modules.end_step()}
        if stated:
            self._rank.state(stated)

    def state_optimizer(self, step: int, settings: Mapping[str, SettingValue]) -> None:
        """Records what an optimizer is set to, as far as that has not been said.

        Args:
            step: The running step.
            settings: By the keys of ``ttrace.ir.optimizer_settings``.
        """
        changed = self._optimizer.changed(step, settings)
        if changed:
            self._rank.state(changed)

    def state(self, settings: Mapping[str, str]) -> None:
        """Adds to what the rank says of its run; of several values the last counts."""
        self._rank.state(settings)

    def skip(self, id_: TensorId, reason: str) -> None:
        """Notes that a tensor was seen and not recorded."""
        self._rank.skip(id_, reason)

    def _own_array(self, id_: TensorId, tensor: torch.Tensor) -> np.ndarray | None:
        """A copy of a plain tensor; None where nothing is recorded."""
        if not self.is_active:
            return None
        try:
            with self._lock:
                return self._copies.array_of(tensor)
        except Exception as error:
            self.skip(id_, reason_of(error, "copy it"))
            return None

    def _refusal_of_mesh(self, name: str, mesh: Mesh | None) -> str | None:
        """Why a layout over the mesh of that name cannot be recorded.

        Args:
            name: What the layout calls it.
            mesh: The mesh that the tensor itself brings; None if it brings none.
        """
        if name in self._meshes and mesh in (None, self._meshes[name]):
            return None
        if name in self._meshes:
            return (
                f"another mesh of the same axes ({name}) came first, on which "
                "this rank has another place; slice both from one mesh"
            )
        return (
            f"its mesh ({name}) was not known when the trace was opened: no "
            "parameter is on it; begin the trace when all parameters are distributed, "
            "or slice the mesh from theirs"
        )
