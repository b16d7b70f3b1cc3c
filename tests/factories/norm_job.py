"""A model whose norm synchronizes its statistics by itself, under DDP or alone.

A worker of ``examples/worker_pool.py`` runs ``main``: ``one`` or ``ddp``, the class of
the norm (``own`` or ``torch``), and the name of a bug (``biased``, ``unsynchronized``).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce

from ttrace.frontends import torch_capture

SAMPLES = 8


class OwnNorm(nn.BatchNorm1d):
    """BatchNorm over the samples of all ranks, as users write it."""

    bug = ""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        size = dist.get_world_size()
        sums = torch.stack([input.sum(0), input.square().sum(0)])
        if size > 1:
            sums = all_reduce(sums)
        count = len(input) * size
        mean, square = sums / count
        variance = square - mean.square()
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            kept = input.mean(0) if self.bug == "unsynchronized" else mean
            factor = 1.0 if self.bug == "biased" else count / (count - 1)
            self.running_mean.lerp_(kept, 0.1)
            self.running_var.lerp_(variance * factor, 0.1)
        return (input - mean) * (variance + self.eps).rsqrt()


def main(argv: Sequence[str]) -> int:
    """Trains two steps of one micro-batch a rank."""
    layout, norm, *bugs = argv
    torch.manual_seed(0)
    own = OwnNorm(4, affine=False) if norm == "own" else nn.BatchNorm1d(4, affine=False)
    if bugs and isinstance(own, OwnNorm):
        own.bug = bugs[0]
    model: nn.Module = nn.Sequential(nn.Linear(4, 4), own, nn.Linear(4, 2))
    rank, size = 0, 1
    if layout == "ddp":
        rank, size = dist.get_rank(), dist.get_world_size()
        model = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            own_samples = torch.randn((SAMPLES, 4), generator=generator)[rank::size]
            loss = model(own_samples).square().mean()
            trace.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0
