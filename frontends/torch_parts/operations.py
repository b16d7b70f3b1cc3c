"""Records the operations that run in modules themselves: operands, results, lines.

A dispatch mode is on only while the own code of such a module runs, and off in the
modules inside of it: what these return counts as given. It sees operations below
autograd, on the local tensors of distributed ones, and hands them on as they are.
"""

import threading
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    is_traceable_wrapper_subclass_type,
)

from ttrace.frontends.torch_parts.calls import ModuleCall
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.compiled import INSIDE, is_compiled
from ttrace.frontends.torch_parts.gradients import sequence_number
from ttrace.frontends.torch_parts.operation_calls import CallOperations, Named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass


class _OperationMode(TorchDispatchMode):
    """Shows operations to a call, if there is one, and runs them as they are."""

    def __init__(self):
        super().__init__()
        self.call: CallOperations | None = None
        self.is_on = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """What is compiled stays compiled, and is not looked into."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Below autograd; a tensor that wraps others first shows what it does."""
        kwargs = kwargs or {}
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented
        call = self.call
        running = None if call is None else call.before(func, args, kwargs)
        returned = func(*args, **kwargs)
        if call is not None and running is not None:
            call.after(running, returned)
        return returned


class _Thread(threading.local):
    """What runs in one thread, outermost first: None for what is not recorded."""

    def __init__(self):
        self.mode = _OperationMode()
        self.calls: list[tuple[ModuleCall, CallOperations | None]] = []
        self.since: list[int] = []


class OperationRecords:
    """Observes the operations of a session, between the hooks on modules.

    Args:
        capture: Of the session.
        rank: Global rank of this process.
    """

    def __init__(self, capture: Capture, rank: int):
        self._capture = capture
        self._rank = rank
        self._thread = _Thread()
        self._budget: dict[str, int] = {}

    def begin_step(self) -> None:
        """Forgets calls that never ended."""
        self.suspend()
        self._thread.calls.clear()
        self._thread.since.clear()
        self._budget.clear()

    def suspend(self) -> None:
        """Observes nothing until a call is entered or left."""
        mode = self._thread.mode
        mode.call = None
        if mode.is_on and _get_current_dispatch_mode() is mode:
            mode.__exit__(None, None, None)
            mode.is_on = False

    def enter(self, call: ModuleCall, module: torch.nn.Module, inputs: Named) -> None:
        """A call begins; its operations are recorded where that is asked for.

        Args:
            call: Which one.
            module: Whose.
            inputs: What it is given.
        """
        self.suspend()
        operations = self._operations(call, module)
        if operations is not None:
            operations.values.rename(inputs, "input/")
        self._thread.calls.append((call, operations))
        self._thread.since.append(sequence_number())
        self._resume()

    def leave(self, call: ModuleCall, outputs: Named) -> None:
        """A call ends, and that around it goes on with what it returned."""
        self.suspend()
        outputs = list(outputs)
        calls, since = self._thread.calls, None
        for place in range(len(calls) - 1, -1, -1):
            if calls[place][0] is call:
                own_operations = calls[place][1]
                if own_operations is not None:
                    own_operations.end(outputs)
                    own_operations.observe_gradients(t for _, t in outputs)
                since = self._thread.since[place]
                del calls[place:], self._thread.since[place:]
                break
        outer, around = calls[-1] if calls else (call, None)
        if around is not None:
            if since is not None:
                around.skip_inside(since)
            own = call.path.removeprefix(f"{outer.path}.")
            around.values.rename(outputs, f"output/{own}/")
        self._resume()

    def _operations(
        self, call: ModuleCall, module: torch.nn.Module
    ) -> CallOperations | None:
        capture = self._capture
        if call.pass_ is not Pass.FORWARD or call.is_repeat:
            return None
        recorder = capture.recorder_of(call.microbatch)
        if recorder is None or not capture.filter.wants_operations_of(call.path):
            return None
        if is_compiled(module):
            id_ = replace(call.tensor_id(Kind.OP, "0"), slot=None)
            recorder.skip(id_, INSIDE)
            return None
        return CallOperations(
            call,
            module,
            recorder,
            self._rank,
            self._budget,
            lambda: (
                capture.recorder is recorder
                and capture.step == call.step
                and not capture.is_paused
            ),
        )

    def _resume(self) -> None:
        mode, calls = self._thread.mode, self._thread.calls
        mode.call = calls[-1][1] if calls else None
        if mode.call is not None and not mode.is_on:
            mode.__enter__()
            mode.is_on = True
