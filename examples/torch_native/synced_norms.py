"""BatchNorm over the samples of all ranks; torch's SyncBatchNorm wants GPUs."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce


class SyncedNorm(nn.BatchNorm2d):
    """Normalizes ``[b, c, h, w]`` with statistics over all ranks of the run."""

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
