"""Hooks on ``torch.amp.GradScaler``: which steps it skips."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.optimizers import OptimizerTap


@guarded("read the scale of a gradient scaler")
def _skip_step(tap: OptimizerTap, scaler: torch.amp.GradScaler) -> None:
    tap.skip_step(scaler.get_scale())  # the scaler's update() comes later


@contextlib.contextmanager
def observed_scalers(taps: Sequence[OptimizerTap]) -> Iterator[None]:
    """Tells taps of the steps that a gradient scaler did not let their optimizer take.

    Optimizers that skip a step themselves (fused ones) are not looked into.

    Args:
        taps: Those of the optimizers to watch.
    """
    by_optimizer = {id(tap.optimizer): tap for tap in taps}
    original = torch.amp.GradScaler.step

    @functools.wraps(original)
    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        tap = by_optimizer.get(id(optimizer))
        num_before = 0 if tap is None else tap.num_steps
        result = original(self, optimizer, *args, **kwargs)
        if tap is not None and tap.num_steps == num_before:
            _skip_step(tap, self)
        return result

    torch.amp.GradScaler.step = step
    try:
        yield
    finally:
        torch.amp.GradScaler.step = original
