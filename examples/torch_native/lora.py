"""Adapters on the linears of a model that is frozen (LoRA)."""

import torch
from torch import nn


class LoraLinear(nn.Module):
    """A frozen linear and what is learned on top of it.

    Args:
        base: The linear.
    """

    RANK = 4
    ALPHA = 8.0

    def __init__(self, base: nn.Module):
        super().__init__()
        assert isinstance(base, nn.Linear)
        self.base = base
        self.down = nn.Linear(base.in_features, self.RANK, bias=False)
        self.up = nn.Linear(self.RANK, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + lora_scaling(self) * self.up(self.down(x))


def lora_scaling(linear: LoraLinear) -> float:
    """What the learned part is multiplied by."""
    return linear.ALPHA / linear.RANK


def freeze(model: nn.Module) -> None:
    """Only adapters are trained."""
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.down.requires_grad_(True)
            module.up.requires_grad_(True)
