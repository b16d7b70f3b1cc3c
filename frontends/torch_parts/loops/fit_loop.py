"""The loop of Lightning's ``Trainer.fit``."""

import sys
from typing import TYPE_CHECKING, Any

import torch

from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.loops.loop_trace import (
    BeginTrace,
    LoopTrace,
    StepTrace,
)

if TYPE_CHECKING:
    from lightning.pytorch import Callback
elif "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback  # the same, under its older name
else:
    from lightning.pytorch import Callback


class FitLoopCallback(Callback):
    """Traces ``trainer.fit(module)``: from the first batch to the last, step by step.

    A micro-batch is one call of ``training_step``, whose arguments are the inputs of
    ``@root``. A step ends with the batch in which an optimizer made one. The loss is
    what ``training_step`` returns.

    Args:
        begin: Opens the trace.
        idle: Stands for it while there is none.
        part: Path of the submodule to trace in place of the LightningModule; a
            micro-batch is one forward of that.
    """

    def __init__(self, begin: BeginTrace, idle: StepTrace, *, part: str | None = None):
        self._loop = LoopTrace(begin, idle)
        self._part = part
        self._num_optimizer_steps = 0

    @property
    def trace(self) -> StepTrace:
        """The running trace; does nothing before and after training."""
        return self._loop.trace

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._num_optimizer_steps = trainer.global_step
        if self._part is None:
            # Around the model there may be what redirects training_step, as DDP does.
            self._loop.begin(trainer.model, *trainer.optimizers, method="training_step")
        else:
            part = pl_module.get_submodule(self._part)
            self._loop.begin(part, *trainer.optimizers)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._loop.is_open:
            self._loop.enter_step()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._loop.is_open:
            return
        self._record_loss(trainer, pl_module, outputs)
        if trainer.global_step != self._num_optimizer_steps:
            self._num_optimizer_steps = trainer.global_step
            self._loop.trace.step()
        self._loop.leave_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._loop.is_open:
            self._loop.end()

    def on_exception(
        self, trainer: Any, pl_module: Any, exception: BaseException
    ) -> None:
        if self._loop.is_open:
            self._loop.end(exception)

    @guarded("record the loss of a training step")
    def _record_loss(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, torch.Tensor):
            return
        scale = 1.0
        if pl_module.automatic_optimization:  # it is divided already
            scale = 1.0 / trainer.accumulate_grad_batches
        self._loop.trace.loss(loss, scale=scale)
