"""Hooks on a torch optimizer: what a step is given, and what it makes of it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.local_tensor import NoLayout, is_whole
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.frontends.torch_parts.tensors import local_tensor
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import Kind

_NO_NORM = NoLayout(
    reason="this rank does not hold all gradients whole, and ttrace does not "
    "communicate; to compare their norm, give it to trace.main_grads(grad_norm=...)"
)


class OptimizerTap:
    """Records the optimizer's side of a step.

    Before the step: ``main_grad`` (``parameter.grad``), ``grad_norm`` (their total
    2-norm, summed in float64: one more pass over the gradients) and ``learning_rate``.
    After it: ``updated_param`` and ``optimizer_state``.

    Args:
        optimizer: The optimizer.
        session: Takes the records.
        first_group: Number of its first parameter group, where there are several
            optimizers.
        holds_whole_model: This rank has all parameters, whole; if not, the norm is
            skipped unless the script gives it.

    Attributes:
        optimizer: The optimizer.
        num_steps: Steps that it has taken since ``attach``.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        session: CaptureSession,
        *,
        first_group: int = 0,
        holds_whole_model: bool = True,
    ):
        self.optimizer = optimizer
        self.num_steps = 0
        self._session = session
        self._first_group = first_group
        self._holds_whole_model = holds_whole_model
        self._step_with_gradients = -1
        self._handles: list[RemovableHandle] = []

    def num_groups(self) -> int:
        """How many parameter groups it has."""
        return len(self.optimizer.param_groups)

    def attach(self) -> None:
        """Puts the hooks on."""
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]

    def detach(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def record_gradients(self, grad_norm: torch.Tensor | float | None = None) -> None:
        """Records ``main_grad`` and ``grad_norm``, at most once in a step.

        Args:
            grad_norm: The norm, where the script knows it; computed if None.
        """
        session = self._session
        if self._step_with_gradients == session.step_number:
            return
        self._step_with_gradients = session.step_number
        own = self._own_parameters()
        session.records.parameters(
            Kind.MAIN_GRAD,
            lambda named: named.parameter.grad if id(named.parameter) in own else None,
        )
        if session.wants(Kind.GRAD_NORM):
            slot = f"group{self._first_group}" if self._first_group else None
            if grad_norm is not None:
                session.records.scalar(Kind.GRAD_NORM, grad_norm, slot=slot)
            elif not self._holds_whole_model:
                session.records.scalar(Kind.GRAD_NORM, 0.0, slot=slot, layout=_NO_NORM)
            elif (norm := self._total_norm()) is not None:
                session.records.scalar(Kind.GRAD_NORM, norm, slot=slot)

    def skip_step(self, loss_scale: float) -> None:
        """Records a step that the optimizer was not let take.

        Its gradients overflowed; they are recorded all the same, and so are the
        parameters, which are what they were.

        Args:
            loss_scale: The scale that the gradients overflowed at.
        """
        self._record_given()
        self._session.records.skipped_step(loss_scale)
        self._record_result()

    def _before(self, optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self._record_given()

    def _after(self, optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.num_steps += 1
        self._record_result()

    def _record_given(self) -> None:
        self.record_gradients()
        if self._session.wants(Kind.LEARNING_RATE):
            for index, group in enumerate(self.optimizer.param_groups):
                if "lr" in group:
                    self._session.records.scalar(
                        Kind.LEARNING_RATE,
                        group["lr"],
                        slot=f"group{self._first_group + index}",
                    )

    def _record_result(self) -> None:
        own = self._own_parameters()
        self._session.records.parameters(
            Kind.UPDATED_PARAM,
            lambda named: named.parameter if id(named.parameter) in own else None,
        )
        self._session.records.optimizer_state(self._state)

    def _own_parameters(self) -> dict[int, torch.Tensor]:
        return {
            id(parameter): parameter
            for group in self.optimizer.param_groups
            for parameter in group["params"]
        }

    def _state(self, named: NamedParameter) -> Mapping[str, torch.Tensor | float]:
        # Looking a parameter up in the optimizer's defaultdict would add it.
        state = self.optimizer.state.get(named.parameter, {})
        return {
            name: value
            for name, value in state.items()
            if isinstance(value, (torch.Tensor, float, int))
        }

    def _total_norm(self) -> float | None:
        """None where there is no gradient, or one that is not a whole dense tensor."""
        gradients = [
            _whole_values(parameter.grad)
            for parameter in self._own_parameters().values()
            if parameter.grad is not None
        ]
        norms = []
        with unobserved():
            for gradient in gradients:
                if type(gradient) is not torch.Tensor or (
                    gradient.layout != torch.strided
                ):
                    return None
                norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
                norms.append(norm.item())
        return math.hypot(*norms) if norms else None


def _whole_values(gradient: torch.Tensor) -> torch.Tensor | None:
    """The values of a gradient; None of one of which this rank has a part."""
    answer = local_tensor(gradient, lambda shape: whole(shape, ""))
    return answer.values if is_whole(answer) else None
