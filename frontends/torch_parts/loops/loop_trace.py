"""A trace that begins and ends in calls that a library makes, not in a ``with``."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import torch
from absl import logging

from ttrace.recording.request import request_from_environment


class StepTrace(Protocol):
    """What a loop tells of its steps; ``torch_capture.PlainTrace`` is one."""

    def step(self) -> None:
        """Ends a training step."""
        ...

    def loss(
        self,
        value: torch.Tensor | float,
        *,
        microbatch: int | None = None,
        scale: float | None = None,
    ) -> None:
        """Records the loss of the micro-batch whose forward ran last."""
        ...

    def main_grads(self, *, grad_norm: torch.Tensor | float | None = None) -> None:
        """Records the gradients, for a script that clips them by its own means."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Neither records nor counts what runs inside."""
        ...


class BeginTrace(Protocol):
    """Opens the trace of a model; ``torch_capture.trace`` does."""

    def __call__(
        self,
        model: torch.nn.Module,
        *optimizers: torch.optim.Optimizer,
        method: str = "forward",
    ) -> AbstractContextManager[StepTrace]: ...


class LoopTrace:
    """The trace of one training loop; it is paused outside of the loop's steps.

    What a library does between two steps (evaluation, logging, checkpoints) is thus
    neither recorded nor counted. In a plain run nothing happens at all.

    Args:
        begin: Opens the trace.
        idle: Stands for the trace while there is none.

    Attributes:
        trace: The open trace, or ``idle``.
    """

    def __init__(self, begin: BeginTrace, idle: StepTrace):
        self.trace = idle
        self._idle = idle
        self._begin = begin
        self._block = ExitStack()
        self._pause = ExitStack()
        self._has_begun = False

    @property
    def is_open(self) -> bool:
        """Whether a trace is being recorded."""
        return self.trace is not self._idle

    def begin(
        self,
        model: torch.nn.Module,
        *optimizers: torch.optim.Optimizer,
        method: str = "forward",
        during: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Begins the trace, paused, if the process is being recorded.

        A trace is of one training: what comes after the first is not recorded.

        Args:
            model: As for ``torch_capture.trace``.
            optimizers: Likewise.
            method: Likewise.
            during: Entered for as long as the trace is open.

        Raises:
            UsageError: The model or the recording request cannot be used.
            TraceError: The trace cannot be created.
        """
        if request_from_environment(os.environ) is None:
            return
        if self._has_begun:
            logging.warning(
                "ttrace: this training is not recorded, as the trace of this process "
                "is that of the first one; to record it, run it in a process of its own"
            )
            return
        self._has_begun = True
        block = self._begin(model, *optimizers, method=method)
        self.trace = self._block.enter_context(block)
        self._block.enter_context(during())
        self.leave_step()

    def enter_step(self) -> None:
        """The loop begins a step, or goes on with one."""
        self._pause.close()

    def leave_step(self) -> None:
        """The loop does something else."""
        self._pause.close()
        self._pause.enter_context(self.trace.paused())

    def end(self, error: BaseException | None = None) -> None:
        """Completes the trace; an error leaves it incomplete."""
        self._pause.close()
        self.trace = self._idle
        block, self._block = self._block, ExitStack()
        if error is None:
            block.close()
            return
        with contextlib.suppress(type(error)):  # the library raises it itself
            block.__exit__(type(error), error, error.__traceback__)
