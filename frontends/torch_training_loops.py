"""Traces training loops that a library runs: one callback, and no other line.

The callbacks do nothing unless ``ttrace record`` started the process. Only the steps of
the training are recorded; what the library does between them, such as an evaluation, is
not. A loop that a script writes itself, with Accelerate or Fabric, takes
``torch_capture.trace`` around what ``prepare`` or ``setup`` returned.
"""

from typing import TYPE_CHECKING

from ttrace.frontends import torch_capture

if TYPE_CHECKING:
    from ttrace.frontends.torch_parts.loops.fit_loop import FitLoopCallback
    from ttrace.frontends.torch_parts.loops.train_loop import TrainLoopCallback


def trainer_callback() -> "TrainLoopCallback":
    """A callback for ``transformers.Trainer``, and the trainers of TRL.

    ``Trainer(..., callbacks=[trainer_callback()])``. One callback traces one
    ``train()``.

    Returns:
        A ``transformers.TrainerCallback``; its ``trace`` is the running trace, e.g. for
        ``with callback.trace.paused():`` around what is no part of a step.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """
    from ttrace.frontends.torch_parts.loops.train_loop import TrainLoopCallback

    return TrainLoopCallback(torch_capture.trace, torch_capture.PlainTrace())


def lightning_callback(*, part: str | None = None) -> "FitLoopCallback":
    """A callback for Lightning's ``Trainer``.

    ``lightning.Trainer(..., callbacks=[lightning_callback()])``. One callback traces
    one ``fit()``. Modules have their paths in the LightningModule.

    Args:
        part: Path of a submodule to trace in place of the LightningModule, e.g. to
            compare it with a loop in plain torch that has only the model.

    Returns:
        A ``lightning.pytorch.Callback`` (of ``pytorch_lightning`` where only that was
        imported); its ``trace`` is the running trace.

    Raises:
        ModuleNotFoundError: Lightning is not installed.
    """
    from ttrace.frontends.torch_parts.loops.fit_loop import FitLoopCallback

    return FitLoopCallback(torch_capture.trace, torch_capture.PlainTrace(), part=part)
