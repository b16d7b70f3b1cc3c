"""The hooks on modules: they observe calls, activations and their gradients.

Nothing here changes a plain run: no hook replaces a value or adds a node to the graph.
Only where noise is injected do tensors change.
"""

import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.torch_parts.calls import ModuleCall, is_recomputing
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.gradients import (
    InputEdge,
    input_edges,
    observe_shares,
    sequence_number,
)
from ttrace.frontends.torch_parts.recorder import TensorRecorder
from ttrace.frontends.torch_parts.tree import named_arguments, named_tensors
from ttrace.ir.tensor_id import Kind

MODULE_KINDS = frozenset({Kind.INPUT, Kind.OUTPUT, Kind.GRAD_INPUT, Kind.GRAD_OUTPUT})
"""Kinds that the hooks on modules record."""


@dataclass(slots=True, kw_only=True, eq=False)
class _OpenCall:
    """A call between its two hooks.

    Attributes:
        call: Which one.
        recorder: Where its tensors go, or None.
        edges: Its inputs that need a gradient share.
        since: Sequence number of the first node that it can make.
    """

    call: ModuleCall
    recorder: TensorRecorder | None
    edges: tuple[InputEdge, ...] = ()
    since: int = 0


class ModuleTap:
    """Observes one module.

    Open calls are kept per module, never in one stack over all: a recomputation that
    stops early leaves modules without their usual end.

    Args:
        path: Canonical path of the module.
        module: The module.
        capture: Shared by the session's hooks.
        kinds: Kinds to record of this module.
        is_root: A forward of this module is a micro-batch.
        chunk: Which of the modules of that path: one per model chunk.
        num_earlier: Calls in a micro-batch that another process makes before.
    """

    def __init__(
        self,
        path: str,
        module: torch.nn.Module,
        capture: Capture,
        *,
        kinds: frozenset[Kind],
        is_root: bool,
        chunk: int = 0,
        num_earlier: int = 0,
    ):
        self._path = path
        # Graphs hold the tap; through the module they could hold themselves.
        self._module = weakref.ref(module)
        self._capture = capture
        self._kinds = kinds
        self._is_root = is_root
        self._chunk = chunk
        self._num_earlier = num_earlier
        self._open: list[_OpenCall] = []
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Puts the hooks on the module; attaching twice does nothing."""
        module = self._module()
        if module is not None and not self._handles:
            self._handles = [
                module.register_forward_pre_hook(self._before, with_kwargs=True),
                # Also after an exception, such as the one that ends a recomputation
                # early; the output is then None.
                module.register_forward_hook(
                    self._after, with_kwargs=True, always_call=True
                ),
            ]

    def detach(self) -> None:
        """Takes the hooks off the module; those on live graphs stay."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._open.clear()

    def forget_open_calls(self) -> None:
        """Drops calls that never ended (interrupted ones)."""
        self._open.clear()

    def _before(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        capture = self._capture
        if capture.is_paused:
            return None
        is_outermost_root = self._is_root and not self._open
        if is_outermost_root and not is_recomputing():
            capture.calls.begin_microbatch(self)
        inputs = list(named_arguments(args, kwargs))
        call = capture.calls.begin_call(
            self._path,
            _recognizable(inputs),
            chunk=self._chunk,
            num_earlier=self._num_earlier,
        )
        changed = None
        if capture.noise is not None and is_outermost_root:
            changed = capture.noise.on_inputs(call, module, args, kwargs)
            inputs = list(named_arguments(*changed))
        recorder = capture.recorder_of(call.microbatch)
        opened = _OpenCall(call=call, recorder=recorder)
        self._open.append(opened)
        if recorder is not None:
            if Kind.INPUT in self._kinds and not call.is_repeat:
                for slot, tensor in inputs:
                    id_ = call.tensor_id(Kind.INPUT, slot)
                    recorder.activation(id_, module, tensor)
            if Kind.GRAD_INPUT in self._kinds:
                opened.edges = input_edges(inputs)
                opened.since = sequence_number()
        return changed

    def _after(
        self,
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        capture = self._capture
        if capture.is_paused or not self._open:
            return None
        opened = self._open.pop()
        call, recorder = opened.call, opened.recorder
        plain = output
        if capture.noise is not None:
            inputs = (tensor for _, tensor in named_arguments(args, kwargs))
            output = capture.noise.on_output(call, module, inputs, output)
        outputs = list(named_tensors(output))
        if recorder is not None and Kind.OUTPUT in self._kinds and not call.is_repeat:
            for slot, tensor in outputs:
                id_ = call.tensor_id(Kind.OUTPUT, slot)
                recorder.activation(id_, module, tensor)
        if torch.is_grad_enabled():
            grown = [(slot, tensor) for slot, tensor in outputs if tensor.requires_grad]
            if grown and capture.calls.claim_gradients(call):
                self._observe_gradients(opened, module, grown)
        return None if output is plain else output

    def _observe_gradients(
        self,
        opened: _OpenCall,
        module: torch.nn.Module,
        outputs: list[tuple[str, torch.Tensor]],
    ) -> None:
        call, recorder = opened.call, opened.recorder
        is_wanted = recorder is not None and Kind.GRAD_OUTPUT in self._kinds
        if is_wanted or self._is_root:
            # The root's outputs announce the micro-batch to the whole backward.
            for slot, tensor in outputs:
                self._listen(call, recorder if is_wanted else None, slot, tensor)
        if opened.edges:
            handed_through = observe_shares(
                opened.edges,
                (tensor for _, tensor in outputs),
                opened.since,
                lambda slot, gradient: self._on_gradient(
                    call, Kind.GRAD_INPUT, slot, gradient
                ),
            )
            for slot in handed_through:
                assert recorder is not None
                recorder.skip(
                    call.tensor_id(Kind.GRAD_INPUT, slot),
                    "the module hands this input through untouched",
                )

    def _listen(
        self,
        call: ModuleCall,
        recorder: TensorRecorder | None,
        slot: str,
        tensor: torch.Tensor,
    ) -> None:
        def hook(gradient: torch.Tensor) -> None:
            if is_wanted:
                self._on_gradient(call, Kind.GRAD_OUTPUT, slot, gradient)
            else:
                self._capture.calls.enter_backward(call)

        is_wanted = recorder is not None
        noise = self._capture.noise
        gate = noise.gate(tensor) if noise is not None else None
        if gate is not None:
            gate.listeners.append(hook)
        elif tensor.grad_fn is not None:
            tensor.register_hook(hook)
        elif recorder is not None:  # a hook on a leaf would stay for all steps
            recorder.skip(
                call.tensor_id(Kind.GRAD_OUTPUT, slot),
                "the module returns a parameter or an input of the model itself",
            )

    def _on_gradient(
        self, call: ModuleCall, kind: Kind, slot: str, gradient: torch.Tensor
    ) -> None:
        capture, module = self._capture, self._module()
        capture.calls.enter_backward(call)
        if capture.recorder is not None and module is not None:
            capture.recorder.activation(call.tensor_id(kind, slot), module, gradient)


def _recognizable(inputs: list[tuple[str, torch.Tensor]]) -> Hashable:
    """What a checkpoint keeps of a call's input: where its first tensor lies."""
    for _, tensor in inputs:
        try:
            return tensor.data_ptr()
        except RuntimeError:  # tensors without memory of their own
            return None
    return None
