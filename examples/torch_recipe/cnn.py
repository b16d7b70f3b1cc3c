"""A small residual network with BatchNorm."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ttrace.examples.torch_recipe.data import NUM_CLASSES


class Block(nn.Module):
    """Convolution and BatchNorm, with a way around."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + F.relu(self.bn(self.conv(hidden)))


class SyncedNorm(nn.BatchNorm2d):
    """BatchNorm over the samples of all ranks; torch's SyncBatchNorm wants GPUs."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        num_values = input.numel() // input.shape[1] * dist.get_world_size()
        dims = (0, 2, 3)
        mean = all_reduce(input.sum(dims)) / num_values
        centered = input - mean[:, None, None]
        variance = all_reduce(centered.square().sum(dims)) / num_values
        with torch.no_grad():
            assert self.momentum is not None and self.num_batches_tracked is not None
            assert self.running_mean is not None and self.running_var is not None
            unbiased = variance * num_values / (num_values - 1)
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centered * scale[:, None, None] + self.bias[:, None, None]


def synchronize_norms(model: nn.Module) -> None:
    """Has every BatchNorm see the samples of all ranks."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedNorm


class Cnn(nn.Module):
    """Classifies images ``[b, 3, 8, 8]``: logits ``[b, classes]``.

    Args:
        num_layers: Number of blocks.
        recompute: Whether they are checkpointed.
    """

    def __init__(self, num_layers: int, *, recompute: bool):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Block(8) for _ in range(num_layers)])
        self.head = nn.Linear(8, NUM_CLASSES)
        self.recompute = recompute

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.stem(images)
        for block in self.blocks:
            if self.recompute:
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return self.head(hidden.mean(dim=(2, 3)))
