"""The loop of ``transformers.Trainer`` and the trainers that are derived from it."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.loops.loop_trace import (
    BeginTrace,
    LoopTrace,
    StepTrace,
)


class TrainLoopCallback(TrainerCallback):
    """Traces ``trainer.train()``: from the first step to the last, step by step.

    A step is one of the optimizer, however many micro-batches it accumulates. The loss
    is what ``Trainer.compute_loss`` computes; where a trainer has one of its own that
    does not call that, it is not recorded (what the model returns is).

    Args:
        begin: Opens the trace.
        idle: Stands for it while there is none.
    """

    def __init__(self, begin: BeginTrace, idle: StepTrace):
        self._loop = LoopTrace(begin, idle)

    @property
    def trace(self) -> StepTrace:
        """The running trace; does nothing before and after training."""
        return self._loop.trace

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        # Of a model under DDP this is the inside; trace() finds what is around it.
        self._loop.begin(
            kwargs["model"],
            kwargs["optimizer"],
            during=lambda: _observed_losses(self),
        )

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._loop.is_open:
            self._loop.enter_step()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._loop.is_open:
            self._loop.trace.step()
            self._loop.leave_step()

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._loop.is_open:
            self._loop.end()

    @guarded("record the loss of a Trainer")
    def record_loss(
        self,
        trainer: Trainer,
        result: Any,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> None:
        """Records what ``compute_loss`` of a trainer returned, if it is ours.

        Args:
            trainer: Whose it is.
            result: The loss, or the loss and the outputs.
            model: As ``compute_loss`` was given it, and so the others.
            inputs: Likewise.
            return_outputs: Likewise.
            num_items_in_batch: Likewise.
            **kwargs: Likewise.
        """
        if any(callback is self for callback in trainer.callback_handler.callbacks):
            loss = result[0] if isinstance(result, tuple) else result
            scale = _loss_scale(trainer, num_items_in_batch)
            self._loop.trace.loss(loss, scale=scale)


@contextlib.contextmanager
def _observed_losses(callback: TrainLoopCallback) -> Iterator[None]:
    """Tells the callback of each loss that a trainer computes, while it lasts."""
    original = Trainer.compute_loss

    @functools.wraps(original)
    def compute_loss(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        callback.record_loss(self, result, *args, **kwargs)
        return result

    Trainer.compute_loss = compute_loss
    try:
        yield
    finally:
        Trainer.compute_loss = original


def _loss_scale(
    trainer: Trainer, num_items_in_batch: torch.Tensor | int | None
) -> float:
    """What ``Trainer.compute_loss`` multiplies the loss by, for DDP to divide by.

    So it does where the loss is a sum over tokens, divided by the tokens of the step
    on all devices.
    """
    is_share = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func
    counts_all = trainer.args.average_tokens_across_devices
    if not (counts_all and is_share and num_items_in_batch is not None):
        return 1.0
    if trainer.args.n_gpu > 1:
        return float(trainer.args.n_gpu)
    tp_size = getattr(trainer, "get_tp_size", lambda: 1)()
    return float(trainer.accelerator.num_processes // tp_size)
