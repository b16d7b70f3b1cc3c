"""Experts that ranks divide by hand, as DTensors; every rank has its own samples.

A worker of ``examples/worker_pool.py`` runs ``main``. One process has all experts; on
two ranks the first has two of the three.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ttrace.frontends import torch_capture

EXPERTS = 3


class Gathered(torch.autograd.Function):
    """The rows of all ranks; the gradient is that of all ranks' losses."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *gradients):
        return Summed.apply(gradients[0])


class Summed(torch.autograd.Function):
    """The sum over ranks, of which each keeps its own rows."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()].clone()

    @staticmethod
    def backward(ctx, *gradients):
        return Gathered.apply(gradients[0])


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, 4, 4))

    def forward(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        weight, first = self.weight, 0
        if isinstance(weight, DTensor):
            weight = weight.to_local()
            first = 0 if dist.get_rank() == 0 else 2
            x, chosen = Gathered.apply(x), Gathered.apply(chosen.float())
        out = torch.zeros_like(x)
        for index, matrix in enumerate(weight):
            out = out + (x @ matrix) * (chosen == first + index)[:, None]
        return Summed.apply(out) if isinstance(self.weight, DTensor) else out


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.experts, self.down = nn.Linear(4, 4), Experts(), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.up(x)
        return self.down(hidden + self.experts(hidden, hidden.argmax(-1) % EXPERTS))


def main(argv: Sequence[str]) -> int:
    """Trains two steps of two micro-batches; each rank has one of them."""
    torch.manual_seed(0)
    model = Model()
    size, rank = dist.get_world_size(), dist.get_rank()
    if size > 1:
        mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("ep",))
        sharded = distribute_tensor(model.experts.weight.detach(), mesh, [Shard(0)])
        model.experts.weight = nn.Parameter(sharded)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            batches = torch.randn(2, 6, 4, generator=generator)
            for x in batches[rank::size]:
                loss = model(x).square().mean()
                trace.loss(loss)
                (loss / 2).backward()
            for parameter in model.parameters():
                if size > 1 and not isinstance(parameter, DTensor):
                    dist.all_reduce(parameter.grad)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0
