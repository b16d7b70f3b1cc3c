"""What ``torch.amp.GradScaler`` does to a run: factors on its backwards, skipped steps.

A scaler multiplies the loss before the backward and divides the gradients of the
parameters after it. In between all gradients carry its factor, which is that of the
very loss that the backward starts from: another scaler may have another one, and each
may change its own between two steps.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ttrace.frontends.torch_parts.clip_times import Gradients
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.optimizers import OptimizerTap
from ttrace.frontends.torch_parts.session import CaptureSession

_NO_BACKWARD = -1


class LossScales:
    """Follows the scaled losses of a run: which backward has which factor.

    Args:
        taps: Those of the optimizers whose gradients are scaled.
        session: Is told the factor of the backward that runs.
    """

    def __init__(self, taps: Sequence[OptimizerTap], session: CaptureSession):
        self._taps = taps
        self._session = session
        self._scaled: dict[int, tuple[weakref.ref[torch.Tensor], float]] = {}
        self._task = _NO_BACKWARD
        self._factor = 1.0
        self._before: Mapping[OptimizerTap, Gradients] = {}

    def factor_of(self, value: object) -> float | None:
        """What a scaler has multiplied a loss by; None of one that no scaler made."""
        known = self._scaled.get(id(value))
        return known[1] if known is not None and known[0]() is value else None

    @guarded("follow a loss that is scaled")
    def follow(self, scaler: torch.amp.GradScaler, scaled: object) -> None:
        """A scaler has multiplied losses: one, or a list of them."""
        if not scaler.is_enabled():
            return
        self._forget_backward()
        factor = float(scaler.get_scale())
        for loss in _tensors(scaled):
            self._scaled = {
                key: held for key, held in self._scaled.items() if held[0]() is not None
            }
            self._scaled[id(loss)] = (weakref.ref(loss), factor)
            if loss.requires_grad:
                loss.register_hook(functools.partial(self._on_gradient, factor))

    @guarded("see which gradients are unscaled")
    def unscaled(self, scaler: torch.amp.GradScaler, optimizer: Any) -> None:
        """A scaler is about to divide an optimizer's gradients by its factor."""
        self._forget_backward()
        for tap in self._taps:
            if optimizer.param_groups is tap.optimizer.param_groups:
                tap.unscale(scaler.get_scale() if scaler.is_enabled() else 1.0)

    @guarded("tell the loss scale of a backward")
    def _on_gradient(self, factor: float, gradient: torch.Tensor) -> None:
        """A backward starts from a scaled loss, or comes to it."""
        task = torch._C._current_graph_task_id()
        self._factor = self._session.loss_scale = factor
        if task != self._task:
            self._task = task
            self._before = {tap: tap.remembered_gradients() for tap in self._taps}
            _at_end_of_backward(lambda: _at_end_of_backward(self._end_backward))

    @guarded("tell which gradients are scaled")
    def _end_backward(self) -> None:
        # What is queued to the end of a backward, such as FSDP's reductions, has run:
        # this has been queued anew by the first of them.
        factor, before = self._factor, self._before
        self._forget_backward()
        for tap, gradients in before.items():
            tap.note_loss_scale(factor, gradients)

    def _forget_backward(self) -> None:
        """No backward runs: of one that was interrupted nothing is left."""
        self._task, self._before = _NO_BACKWARD, {}
        self._session.loss_scale = 1.0


def _at_end_of_backward(call: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(call)


def _tensors(scaled: object) -> Iterator[torch.Tensor]:
    if isinstance(scaled, torch.Tensor):
        yield scaled
    elif isinstance(scaled, (list, tuple)):  # others are read once, by the script
        for inner in scaled:
            yield from _tensors(inner)


@guarded("read the scale of a gradient scaler")
def _skip_step(tap: OptimizerTap, scaler: torch.amp.GradScaler) -> None:
    tap.skip_step(scaler.get_scale())  # the scaler's update() comes later


@contextlib.contextmanager
def observed_scalers(
    taps: Sequence[OptimizerTap], session: CaptureSession
) -> Iterator[LossScales]:
    """Follows losses that scalers scale, and tells taps of the steps that they skip.

    A step is skipped where a scaler did not let the optimizer take it. Optimizers that
    skip a step themselves (fused ones) are not looked into.

    Args:
        taps: Those of the optimizers to watch.
        session: Is told the factor of the backward that runs.
    """
    by_optimizer = {id(tap.optimizer): tap for tap in taps}
    scales = LossScales(taps, session)

    def of_scale(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def scale(self: Any, outputs: Any) -> Any:
            scaled = original(self, outputs)
            scales.follow(self, scaled)
            return scaled

        return scale

    def of_unscale(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def unscale_(self: Any, optimizer: torch.optim.Optimizer) -> None:
            scales.unscaled(self, optimizer)
            original(self, optimizer)

        return unscale_

    def of_step(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            tap = by_optimizer.get(id(optimizer))
            num_before = 0 if tap is None else tap.num_steps
            result = original(self, optimizer, *args, **kwargs)
            if tap is not None and tap.num_steps == num_before:
                _skip_step(tap, self)
            return result

        return step

    with contextlib.ExitStack() as stack:
        for owner in _classes(torch.amp.GradScaler):
            for name, make in (
                ("scale", of_scale),
                ("unscale_", of_unscale),
                ("step", of_step),
            ):
                original = vars(owner).get(name)
                if original is not None:
                    setattr(owner, name, make(original))
                    stack.callback(setattr, owner, name, original)
        yield scales


def _classes(base: type) -> Iterator[type]:
    """A class and those derived from it, such as FSDP's, each once."""
    seen: set[type] = set()
    found = [base]
    while found:
        one = found.pop()
        if one not in seen:
            seen.add(one)
            found.extend(one.__subclasses__())
            yield one
