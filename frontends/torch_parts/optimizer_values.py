"""What an optimizer of torch holds: parameters, their gradients, its state."""

import sys
from collections.abc import Mapping

import torch

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.clip_times import Remembered
from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.gradient_norm import total_norm


class OptimizerValues:
    """Reads them off one optimizer, and leaves them as they are.

    Args:
        optimizer: The optimizer.

    Attributes:
        held_scale: The loss scale that gradients have, as far as is known.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self.held_scale = 1.0

    def parameters(self) -> dict[int, torch.Tensor]:
        """Those of all groups, by ``id``."""
        return {
            id(parameter): parameter
            for group in self._optimizer.param_groups
            for parameter in group["params"]
        }

    def gradient(self, named: NamedParameter) -> torch.Tensor | None:
        """That of a parameter of this optimizer, without the loss scale; else None."""
        is_own = id(named.parameter) in self.parameters()
        gradient = named.parameter.grad if is_own else None
        scale = self.scale_inside()
        if gradient is None or scale == 1:
            return gradient
        with unobserved():
            return gradient / scale

    def total_norm(self) -> float | None:
        """That of all gradients, as ``gradient_norm.total_norm``; no loss scale."""
        norm = total_norm(
            parameter.grad
            for parameter in self.parameters().values()
            if parameter.grad is not None
        )
        return None if norm is None else norm / self.scale_inside()

    def scale_inside(self) -> float:
        """The loss scale that gradients still have, as a ``GradScaler`` tells it.

        A fused step divides its gradients by it.
        """
        scale = getattr(self._optimizer, "grad_scale", None)
        return float(scale) if isinstance(scale, torch.Tensor) else self.held_scale

    def remembered(self) -> Mapping[int, Remembered]:
        """The gradients as they are now, to tell later whether they have changed."""
        return {
            key: Remembered(parameter.grad)
            for key, parameter in self.parameters().items()
            if parameter.grad is not None
        }

    def state(
        self, named: NamedParameter, *, only_own: bool = False
    ) -> Mapping[str, torch.Tensor | float]:
        """What is kept of a parameter, by name.

        Args:
            named: The parameter.
            only_own: Nothing of one that is in no group now.
        """
        if only_own and id(named.parameter) not in self.parameters():
            return {}
        # Looking a parameter up in the optimizer's defaultdict would add it.
        state = _holder_of_state(self._optimizer).state.get(named.parameter, {})
        return {
            name: value
            for name, value in state.items()
            if isinstance(value, (torch.Tensor, float, int))
        }


def _holder_of_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """What keeps the state: of ZeroRedundancyOptimizer a smaller one of each rank."""
    loaded = sys.modules.get("torch.distributed.optim")
    redundancy_free = getattr(loaded, "ZeroRedundancyOptimizer", None)
    if redundancy_free is not None and isinstance(optimizer, redundancy_free):
        return getattr(optimizer, "optim", optimizer)
    return optimizer
