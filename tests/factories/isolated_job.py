"""A small model over two processes, by DDP, FSDP2 or DTensor's styles, with bugs.

A worker of ``examples/worker_pool.py`` runs ``main``: the way, and the bugs. One
process trains the same model on both halves of the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from ttrace.frontends import torch_capture

BATCH = 4

_PLAIN = ("input", "output", "grad_input", "grad_output")


class _Sum(torch.autograd.Function):
    """Adds partials up; each of them has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float):
        total = x.clone()
        dist.all_reduce(total)
        return total * factor

    @staticmethod
    def backward(ctx: Any, *gradients: Any):
        return gradients[0], None


class Layer(nn.Module):
    def __init__(self, bug: str):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)
        self.bug, self.sums = bug, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(self.act(self.up(x)))
        if self.sums:  # a collective of its own
            y = _Sum.apply(y, 0.5 if self.bug == "averages" else 1.0)
        return x + y * (1.01 if self.bug == "scales" else 1.0)


class Model(nn.Module):
    def __init__(self, bugs: Sequence[str]):
        super().__init__()
        self.layers = nn.ModuleList(Layer(bug) for bug in bugs)
        self.head = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def _distributed(model: Model, way: str) -> nn.Module:
    if way == "ddp":
        return DistributedDataParallel(model)
    axis = "tp" if way == "tp" else "dp"
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=(axis,))
    for layer in model.layers:
        assert isinstance(layer, Layer)
        if way == "fsdp2":
            fully_shard(layer, mesh=mesh)
        else:
            layer.sums = True
            plan = {
                "up": ColwiseParallel(),
                "down": RowwiseParallel(output_layouts=Partial()),
            }
            parallelize_module(layer, mesh, plan)
    if way == "fsdp2":
        fully_shard(model, mesh=mesh)
    return model


def main(argv: Sequence[str]) -> int:
    """Trains one step."""
    way, *bugs = argv
    torch.manual_seed(0)
    model: nn.Module = Model(bugs)
    size, rank = dist.get_world_size(), dist.get_rank()
    if size > 1:
        model = _distributed(model, way)
    batch = torch.randn(2, BATCH, 6, generator=torch.Generator().manual_seed(1))
    parts = [rank] if size > 1 and way != "tp" else [0, 1]
    # Beside the styles nothing says what the ranks have of plain tensors: all of it.
    dims = {}
    if way == "tp":
        places = ("@root", "head", *(f"layers.{n}" for n in range(len(bugs))))
        dims = {f"{place}/{kind}/0": "b f" for place in places for kind in _PLAIN}
        dims |= {f"layers.{n}.down/grad_output/0": "b f" for n in range(len(bugs))}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    with torch_capture.trace(model, optimizer, dims=dims) as trace:
        for part in parts:
            loss = model(batch[part]).square().mean()
            trace.loss(loss)
            (loss / len(parts)).backward()
        optimizer.step()
        trace.step()
    return 0
