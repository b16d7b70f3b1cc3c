"""The hooks on modules: they observe calls, activations and their gradients.

Nothing here changes a plain run: no hook replaces a value or adds a node to the graph.
Only where noise is injected, or values of another run are put in, do tensors change.
"""

import weakref
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.torch_parts.called_methods import MethodCall
from ttrace.frontends.torch_parts.calls import ModuleCall, is_recomputing
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.compiled import (
    CompiledCall,
    is_compiled,
    is_wrapper,
)
from ttrace.frontends.torch_parts.gradients import (
    InputEdge,
    input_edges,
    observe_shares,
    returned_in_use,
    sequence_number,
)
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import NoLayout
from ttrace.frontends.torch_parts.recorder import TensorRecorder
from ttrace.frontends.torch_parts.rewriting import RewrittenInput
from ttrace.frontends.torch_parts.tensors import local_values
from ttrace.frontends.torch_parts.tree import named_arguments, named_tensors
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.faults import reason_of
from ttrace.recording.rewrites import NO_MODULE_BEHIND

_HANDED_THROUGH = "the module hands its input through untouched"

_RETURNED = (
    "the module returns an input that it also uses: its gradient is that of all uses "
    "of this tensor"
)


_GIVEN_AROUND = (
    "the module returns what a module around it was given, too: its gradient is that "
    "of all uses of this tensor"
)


@dataclass(slots=True, kw_only=True, eq=False)
class _OpenCall:
    """A call between its two hooks.

    Attributes:
        call: Which one.
        recorder: Where its tensors go, or None.
        edges: Its inputs that need a gradient share.
        since: Sequence number of the first node that it can make.
        rewritten: Its inputs that have values of another run.
    """

    call: ModuleCall
    recorder: TensorRecorder | None
    edges: tuple[InputEdge, ...] = ()
    since: int = 0
    rewritten: tuple[RewrittenInput, ...] = ()


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
        method: Name of the method that runs it, where that is not its forward.
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
        method: str | None = None,
    ):
        self._path = path
        self._method = method
        # Graphs hold the tap; through the module they could hold themselves.
        self._module = weakref.ref(module)
        self._capture = capture
        self._kinds = kinds
        self._is_root = is_root
        self._chunk = chunk
        self._num_earlier = num_earlier
        self._open: list[_OpenCall | None] = []  # None where observing it failed
        self._handles: list[RemovableHandle | CompiledCall | MethodCall] = []
        self._was_compiled = False

    @property
    def module(self) -> torch.nn.Module | None:
        """The module, while it lives."""
        return self._module()

    @property
    def was_compiled_under_way(self) -> bool:
        """Whether the module was told to compile after its hooks were put on."""
        module = self._module()
        return (
            module is not None
            and bool(self._handles)
            and is_compiled(module)
            and not is_wrapper(module)
            and not self._was_compiled
        )

    @guarded("put hooks on a module")
    def attach(self) -> None:
        """Puts the hooks on the module; attaching twice does nothing."""
        module = self._module()
        if module is None:
            return
        is_compiled_in_place = is_compiled(module) and not is_wrapper(module)
        if is_compiled_in_place is not self._was_compiled:
            self.detach()
            self._was_compiled = is_compiled_in_place
        if self._handles:
            return
        if self._method is not None:
            self._handles = [
                MethodCall(module, self._method, self._before, self._after)
            ]
        elif is_compiled_in_place:
            self._handles = [CompiledCall(module, self._before, self._after)]
        else:
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

    def skip_tensors(self, reason: str) -> None:
        """Skips whatever the calls of this step gave that would be recorded.

        Which tensors those are nobody has seen: a skip without slot stands for all.
        """
        calls = self._capture.calls
        for microbatch in calls.microbatches():
            for kind in sorted(self._kinds):
                id_ = TensorId(
                    step=calls.step,
                    microbatch=microbatch,
                    module=self._path,
                    kind=kind,
                )
                self._capture.skip(id_, reason)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModuleTap":
        """Itself: the hooks of a model are copied with it, and find another module."""
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Nothing of it: a model that is saved whole is no longer observed."""
        return (_NoTap, ())

    def forget_open_calls(self) -> None:
        """Drops calls that never ended (interrupted ones)."""
        self._open.clear()

    @guarded("observe the call of a module")
    def _before(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if module is not self._module():  # a copy of it, which is another model
            return None
        if self._capture.is_paused or not self._capture.counts_calls:
            return None
        num_open = len(self._open)
        try:
            return self._begin(module, args, kwargs)
        except Exception:
            self._open[num_open:] = [None]
            raise

    def _begin(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        capture = self._capture
        if capture.operations is not None:
            capture.operations.suspend()
        is_outermost_root = self._is_root and not self._open
        if is_outermost_root and not is_recomputing():
            capture.calls.begin_microbatch(self)
        if capture.recorder is not None:
            capture.recorder.state_autocast()
            capture.recorder.note_module(self._path, module, args, kwargs)
        inputs, fault = _walked(named_arguments(args, kwargs))
        call = capture.calls.begin_call(
            self._path,
            _recognizable(inputs),
            chunk=self._chunk,
            num_earlier=self._num_earlier,
        )
        changed = None
        if capture.noise is not None and is_outermost_root:
            changed = capture.noise.on_inputs(call, module, args, kwargs)
            inputs, fault = _walked(named_arguments(*changed))
        recorder = capture.recorder_of(call.microbatch)
        opened = _OpenCall(call=call, recorder=recorder)
        self._open.append(opened)
        if capture.open_calls is not None:
            capture.open_calls.enter(call, sequence_number())
        if recorder is not None:
            if fault is not None:
                self._skip_all(recorder, call, (Kind.INPUT, Kind.GRAD_INPUT), fault)
            if Kind.INPUT in self._kinds and not call.is_repeat:
                for slot, tensor in inputs:
                    id_ = call.tensor_id(Kind.INPUT, slot)
                    recorder.activation(id_, module, tensor)
        if capture.rewriting is not None:  # what came is recorded by now
            changed, opened.rewritten = capture.rewriting.on_inputs(call, args, kwargs)
            inputs, _ = _walked(named_arguments(*changed))
        if recorder is not None:
            if self._kinds & {Kind.GRAD_INPUT, Kind.GRAD_OUTPUT}:
                opened.since = sequence_number()
                try:
                    opened.edges = input_edges(inputs)
                    capture.given.enter(opened.edges)
                except Exception as error:
                    slots = [slot for slot, tensor in inputs if tensor.requires_grad]
                    _skip_shares(recorder, call, slots, error)
        if capture.operations is not None:
            capture.operations.enter(call, module, inputs)
        return changed

    @guarded("observe what a module returns")
    def _after(
        self,
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        capture = self._capture
        if module is not self._module():
            return None
        if capture.is_paused or not capture.counts_calls or not self._open:
            return None
        opened = self._open.pop()
        if opened is None:
            return None
        if capture.operations is not None:
            capture.operations.suspend()
        call, recorder = opened.call, opened.recorder
        capture.given.leave(opened.edges)
        if capture.open_calls is not None:
            capture.open_calls.leave(call, sequence_number())
        plain = output
        if capture.noise is not None:
            inputs = (tensor for _, tensor in named_arguments(args, kwargs))
            output = capture.noise.on_output(call, module, inputs, output)
        outputs, fault = _walked(named_tensors(output))
        if capture.rewriting is not None:
            capture.rewriting.on_return(
                opened.rewritten, (tensor for _, tensor in outputs)
            )
        if recorder is not None and fault is not None:
            self._skip_all(recorder, call, (Kind.OUTPUT, Kind.GRAD_OUTPUT), fault)
        if recorder is not None and Kind.OUTPUT in self._kinds and not call.is_repeat:
            for slot, tensor in outputs:
                id_ = call.tensor_id(Kind.OUTPUT, slot)
                recorder.activation(id_, module, tensor)
        if torch.is_grad_enabled():
            grown = [(slot, tensor) for slot, tensor in outputs if tensor.requires_grad]
            if grown and capture.calls.claim_gradients(call):
                self._observe_gradients(opened, module, grown)
        if capture.operations is not None:
            capture.operations.leave(call, outputs)
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
            refused = dict.fromkeys(self._capture.given.among(outputs), _GIVEN_AROUND)
            refused |= _refused_outputs(opened, outputs)
            if self._capture.rewriting is not None:
                refused |= self._handed_through(opened, outputs)
            for slot, tensor in outputs:
                reason = refused.get(slot)
                takes = recorder if is_wanted and reason is None else None
                if takes is not None or self._is_root:
                    try:
                        self._listen(call, takes, slot, tensor)
                    except Exception as error:
                        reason = reason or reason_of(error, "observe its gradient")
                if recorder is not None and is_wanted and reason is not None:
                    recorder.skip(call.tensor_id(Kind.GRAD_OUTPUT, slot), reason)
        if opened.edges and Kind.GRAD_INPUT in self._kinds:
            assert recorder is not None
            try:
                handed_through = observe_shares(
                    opened.edges,
                    (tensor for _, tensor in outputs),
                    opened.since,
                    lambda slot, gradient: self._on_gradient(
                        call, Kind.GRAD_INPUT, slot, gradient
                    ),
                )
            except Exception as error:
                slots = [edge.slot for edge in opened.edges]
                _skip_shares(recorder, call, slots, error)
                return
            for slot in handed_through:
                recorder.skip(call.tensor_id(Kind.GRAD_INPUT, slot), _HANDED_THROUGH)

    def _handed_through(
        self, opened: _OpenCall, outputs: list[tuple[str, torch.Tensor]]
    ) -> dict[str, str]:
        """Outputs that are what took an input's place, by slot, with what to say.

        The gradient of the caller's tensor is that of all that use it, here and
        elsewhere, which the copy's is not. It is replaced where that tensor is made.
        """
        rewriting = self._capture.rewriting
        assert rewriting is not None
        copies = {id(each.copy) for each in opened.rewritten}
        slots = [slot for slot, tensor in outputs if id(tensor) in copies]
        for slot in slots:
            rewriting.values.note_done(opened.call.tensor_id(Kind.GRAD_OUTPUT, slot))
        return dict.fromkeys(slots, _HANDED_THROUGH)

    def _skip_all(
        self,
        recorder: TensorRecorder,
        call: ModuleCall,
        kinds: tuple[Kind, ...],
        error: Exception,
    ) -> None:
        """Skips the tensors of a structure that could not be walked to its end."""
        reason = reason_of(error, "look through the structure that holds it")
        for kind in self._kinds.intersection(kinds):
            id_ = replace(call.tensor_id(kind, "0"), slot=None, call=0)
            recorder.skip(id_, reason)

    def _listen(
        self,
        call: ModuleCall,
        recorder: TensorRecorder | None,
        slot: str,
        tensor: torch.Tensor,
    ) -> None:
        @guarded("record the gradient of an output")
        def hook(gradient: torch.Tensor | None) -> None:
            if gradient is None:
                return  # nothing uses this output of a function that has several
            if is_wanted:
                self._on_gradient(call, Kind.GRAD_OUTPUT, slot, gradient)
            else:
                self._capture.calls.enter_backward(call)

        is_wanted = recorder is not None
        noise = self._capture.noise
        gate = noise.gate(tensor) if noise is not None else None
        rewriting = self._capture.rewriting
        if rewriting is not None and tensor.grad_fn is not None:
            entry = rewriting.gate(tensor)
            entry.listeners.append(hook)
            entry.ids.append(call.tensor_id(Kind.GRAD_OUTPUT, slot))
        elif gate is not None:
            gate.listeners.append(hook)
        elif tensor.grad_fn is not None:
            tensor.register_hook(hook)
        elif recorder is not None:  # a hook on a leaf would stay for all steps
            recorder.skip(
                call.tensor_id(Kind.GRAD_OUTPUT, slot),
                NO_MODULE_BEHIND,
            )

    def _on_gradient(
        self,
        call: ModuleCall,
        kind: Kind,
        slot: str,
        gradient: torch.Tensor | NoLayout,
    ) -> None:
        capture, module = self._capture, self._module()
        capture.calls.enter_backward(call)
        if capture.recorder is None or module is None:
            return
        id_ = call.tensor_id(kind, slot)
        if capture.takes_aside(id_):
            return
        if isinstance(gradient, NoLayout):
            capture.recorder.skip(id_, gradient.reason)
        else:
            capture.recorder.activation(id_, module, gradient)


def _walked(
    tensors: Iterator[tuple[str, torch.Tensor]],
) -> tuple[list[tuple[str, torch.Tensor]], Exception | None]:
    """The tensors of a structure, and what was raised before its end, if anything."""
    found = []
    try:
        for pair in tensors:
            found.append(pair)
    except Exception as error:
        return found, error
    return found, None


def _refused_outputs(
    opened: _OpenCall, outputs: list[tuple[str, torch.Tensor]]
) -> dict[str, str]:
    """Why the gradients of some outputs are not recorded, by slot."""
    try:
        shared = returned_in_use(opened.edges, outputs, opened.since)
    except Exception as error:
        reason = reason_of(error, "find what else uses it")
        return {slot: reason for slot, _ in outputs}
    return dict.fromkeys(shared, _RETURNED)


def _skip_shares(
    recorder: TensorRecorder, call: ModuleCall, slots: list[str], error: Exception
) -> None:
    reason = reason_of(error, "find where its gradient comes from")
    for slot in slots:
        recorder.skip(call.tensor_id(Kind.GRAD_INPUT, slot), reason)


def _recognizable(inputs: list[tuple[str, torch.Tensor]]) -> Hashable:
    """What a checkpoint keeps of a call's input: where its first tensor lies."""
    for _, tensor in inputs:
        try:
            return local_values(tensor).data_ptr()
        except Exception:  # tensors without memory of their own
            return None
    return None


class _NoTap:
    """What the hooks of a model are once it was saved whole and loaded."""

    def _before(self, *args: Any) -> None:
        """Nothing."""

    def _after(self, *args: Any) -> None:
        """Nothing."""
