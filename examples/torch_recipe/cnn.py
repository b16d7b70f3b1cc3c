"""A small residual network with BatchNorm."""

import torch
from torch import nn
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
