"""Values of another run in place of a run's own: what modules are given, both ways.

An input gets its value in a new tensor, and its gradient goes on as it is; the tensor
that the caller holds stays what it was. The gradient of an output is replaced on its
way into the module. What is recorded of either is what came, not what took its place.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from ttrace.frontends.torch_parts.arrays import (
    dtype_name,
    has_memory,
    tensor_of,
    unobserved,
)
from ttrace.frontends.torch_parts.calls import ModuleCall
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.tensors import local_values, with_values
from ttrace.frontends.torch_parts.tree import map_tensors
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.faults import reason_of
from ttrace.recording.rewrites import RankRewrites, misfit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RewrittenInput:
    """An input of a call that has another value.

    Attributes:
        id: Its identity.
        given: What the caller passed.
        copy: What the module was given in its place.
        version: Of the copy, before the module ran.
    """

    id: TensorId
    given: torch.Tensor
    copy: torch.Tensor
    version: int


class Gate:
    """What happens to the gradient of one tensor, whichever modules returned it.

    Listeners are told what came, then it is replaced: once, as all modules that return
    a tensor have the same gradient of it.

    Args:
        rewriting: Knows the values.
        tensor: Not a leaf, on which a hook would stay.

    Attributes:
        listeners: Called with the gradient that came.
        ids: Whose value may take its place; the first that there is counts.
    """

    __slots__ = ("_rewriting", "ids", "listeners")

    def __init__(self, rewriting: "Rewriting", tensor: torch.Tensor):
        self._rewriting = rewriting
        self.listeners: list[Callable[[torch.Tensor | None], None]] = []
        self.ids: list[TensorId] = []
        tensor.register_hook(self._replaced)

    def _replaced(self, gradient: torch.Tensor | None) -> torch.Tensor | None:
        for listener in self.listeners:
            listener(gradient)
        return None if gradient is None else self._replacement(gradient)

    @guarded("overwrite a gradient")
    def _replacement(self, gradient: torch.Tensor) -> torch.Tensor | None:
        new = None
        for id_ in self.ids:
            if new is None:
                new = self._rewriting.value(id_, gradient)
            if new is not None:
                self._rewriting.values.note_done(id_)
        return new


class _Overwrite(torch.autograd.Function):
    """Another value with the history of a tensor; the gradient goes on as it is.

    Nothing is saved for backward, so checkpoints count the same tensors with it and
    without.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, make: Callable[[], torch.Tensor]):
        return make()  # as an argument it would be returned as a view of itself

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any):
        (gradient,) = grad_outputs
        return gradient, None


class Rewriting:
    """Overwrites what the modules of a run are given.

    Args:
        values: What takes the place of what.

    Attributes:
        values: As given.
    """

    def __init__(self, values: RankRewrites):
        self.values = values
        self._gates = WeakIdKeyDictionary()

    def on_inputs(
        self, call: ModuleCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], tuple[RewrittenInput, ...]]:
        """The arguments of a call with their values, and which have one.

        A tensor that is passed twice is one tensor afterwards, too.
        """
        done: dict[int, torch.Tensor] = {}
        rewritten: list[RewrittenInput] = []

        def change(slot: str, tensor: torch.Tensor) -> torch.Tensor:
            id_ = call.tensor_id(Kind.INPUT, slot)
            new = done.get(id(tensor))
            if new is None:
                if isinstance(tensor, torch.nn.Parameter) or tensor.is_inference():
                    return tensor
                value = self.value(id_, tensor)
                if value is None:
                    return tensor
                new = value
                if tensor.requires_grad and torch.is_grad_enabled():
                    new = _Overwrite.apply(tensor, lambda: value)
                    assert isinstance(new, torch.Tensor)
                done[id(tensor)] = new
                rewritten.append(
                    RewrittenInput(id=id_, given=tensor, copy=new, version=new._version)
                )
            self.values.note_done(id_)
            return new

        changed = map_tensors(args, change), map_tensors(kwargs, change)
        return changed, tuple(rewritten)

    def on_return(
        self, rewritten: Iterable[RewrittenInput], outputs: Iterable[torch.Tensor]
    ) -> None:
        """Gives the caller what a module wrote into an input, and did not return."""
        returned = {_memory(tensor) for tensor in outputs}
        for each in rewritten:
            is_changed = each.copy._version != each.version
            if not is_changed or _memory(each.copy) in returned:
                continue
            try:
                with unobserved():
                    given = local_values(each.given).detach()
                    given.copy_(local_values(each.copy).detach())
            except Exception as error:
                reason = reason_of(error, "give the caller what the module wrote in it")
                self.values.note_left(each.id, reason)

    def gate(self, tensor: torch.Tensor) -> Gate:
        """The gate of a tensor that is no leaf."""
        entry = self._gates.get(tensor)
        if entry is not None and entry[0] == tensor._version:
            return entry[1]
        gate = Gate(self, tensor)
        self._gates[tensor] = (tensor._version, gate)
        return gate

    def value(self, id_: TensorId, tensor: torch.Tensor) -> torch.Tensor | None:
        """What takes the place of a tensor: new memory, of its type and device.

        None where there is no value, or where that does not fit; why is noted then.
        """
        try:
            values = self.values.values_of(id_)
            if values is None:
                return None
            reason = _misfit(tensor, values)
            if reason is None:
                return _like(tensor, values)
        except Exception as error:
            reason = reason_of(error, "overwrite it")
        self.values.note_left(id_, reason)
        return None


def _misfit(tensor: torch.Tensor, values: np.ndarray) -> str | None:
    """Why an array cannot take the place of a tensor's values; None where it can."""
    local = local_values(tensor)
    return misfit(tuple(local.shape), dtype_name(local), values)


def _like(tensor: torch.Tensor, values: np.ndarray) -> torch.Tensor:
    local = local_values(tensor)
    with unobserved():
        # A copy of its own: the array is read-only, and the module may write into it.
        new = torch.empty_like(local.detach())
        new.copy_(tensor_of(np.array(values)).reshape(new.shape))
    return with_values(tensor, new)


def _memory(tensor: torch.Tensor) -> int:
    local = local_values(tensor)
    if not has_memory(local):
        return id(local)
    with unobserved():
        return local.untyped_storage().data_ptr()
