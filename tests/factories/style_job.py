"""A model with one of torch's parallel styles, and plain modules around it.

A worker of ``examples/worker_pool.py`` runs ``main``: the name of the style, and dims
text as JSON. One process trains the same model without the style.
"""

import json
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from ttrace.frontends import torch_capture


class OwnStyle(ColwiseParallel):
    """One that ttrace has never seen."""

    @staticmethod
    def _prepare_output_fn(output_layouts, use_local_output, mod, outputs, device_mesh):
        return outputs.to_local()


class Plain(nn.Module):
    """What no style is put on."""

    def forward(self, x):
        return x * 1.5


class Split(nn.Module):
    """The same, and another number of dims."""

    def forward(self, x):
        return (x * 1.5).unflatten(-1, (2, -1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = Plain()
        self.up, self.mid, self.down = nn.Linear(4, 8), Plain(), nn.Linear(8, 4)

    def forward(self, x):
        return self.down(self.mid(self.up(self.core(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.split, self.block, self.after = Split(), Block(), Plain()
        self.sums = False

    def forward(self, x):
        x = self.norm(self.first(x))
        x = self.split(x).flatten(-2)
        x = self.after(self.block(x))
        if self.sums:
            x = _Sum.apply(x)
        return x


class _Sum(torch.autograd.Function):
    """Adds partials up; each of them has the gradient of the sum."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, *gradients):
        return gradients


class _Copy(torch.autograd.Function):
    """The same on all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *gradients):
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class CutStyle(ParallelStyle):
    """One of a script's own, with plain parameters: a share of each of two parts.

    Args:
        dim: Of the weight; the bias is cut along it where that is 0.
    """

    def __init__(self, dim: int):
        super().__init__()
        self._dim = dim

    def _apply(self, module, device_mesh):
        rank, size = device_mesh.get_local_rank(), device_mesh.size()
        for name, values in list(module.named_parameters()):
            if self._dim < values.dim():
                shares = [
                    part.chunk(size, self._dim)[rank]
                    for part in values.data.chunk(2, self._dim)
                ]
                share = nn.Parameter(torch.cat(shares, self._dim))
                setattr(module, name, share)
        forward = module.forward
        if self._dim:
            module.forward = lambda x: _Sum.apply(x @ module.weight.T) + module.bias
        else:
            module.forward = lambda x: forward(_Copy.apply(x))
        return module


OWN_CUT = {
    "first": lambda: ColwiseParallel(output_layouts=Replicate()),
    "block.up": lambda: CutStyle(0),
    "block.down": lambda: CutStyle(1),
}
"""Plain parameters beside DTensors."""

STYLES = {
    "colwise": {
        "block.up": lambda: ColwiseParallel(),
        "block.down": lambda: RowwiseParallel(),
    },
    "colwise-dtensor": {
        "block.up": lambda: ColwiseParallel(use_local_output=False),
        "block.down": lambda: RowwiseParallel(),
    },
    "rowwise-dtensor": {
        "block.up": lambda: ColwiseParallel(),
        "block.down": lambda: RowwiseParallel(use_local_output=False),
    },
    "rowwise-partial": {
        "block.up": lambda: ColwiseParallel(),
        "block.down": lambda: RowwiseParallel(output_layouts=Partial()),
    },
    "sequence": {
        "first": lambda: RowwiseParallel(
            input_layouts=Replicate(), output_layouts=Shard(1)
        ),
        "norm": lambda: SequenceParallel(use_local_output=True),
        "block.up": lambda: ColwiseParallel(input_layouts=Shard(1)),
        "block.down": lambda: RowwiseParallel(),
    },
    "input": {
        "block": lambda: PrepareModuleInput(
            input_layouts=Replicate(),
            desired_input_layouts=Shard(1),
            use_local_output=True,
        ),
        "block.up": lambda: ColwiseParallel(input_layouts=Shard(1)),
        "block.down": lambda: RowwiseParallel(),
    },
    "input-dtensor": {
        "block": lambda: PrepareModuleInput(
            input_layouts=Replicate(), desired_input_layouts=Shard(1)
        ),
        "block.up": lambda: ColwiseParallel(input_layouts=Shard(1)),
        "block.down": lambda: RowwiseParallel(),
    },
    "output": {
        "block.up": lambda: ColwiseParallel(),
        "block.mid": lambda: PrepareModuleOutput(
            output_layouts=Shard(-1), desired_output_layouts=Replicate()
        ),
        "block.down": lambda: RowwiseParallel(input_layouts=Replicate()),
    },
    "output-dtensor": {
        "block.up": lambda: ColwiseParallel(),
        "block.mid": lambda: PrepareModuleOutput(
            output_layouts=Shard(-1),
            desired_output_layouts=Replicate(),
            use_local_output=False,
        ),
        "block.down": lambda: RowwiseParallel(),
    },
    "own": {
        "block.up": lambda: OwnStyle(),
        "block.down": lambda: RowwiseParallel(),
    },
}


def main(argv: Sequence[str]) -> int:
    """Trains one step of two micro-batches."""
    style, dims = argv
    torch.manual_seed(0)
    model = Model()
    if dist.get_world_size() > 1:
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
        styles = OWN_CUT if style == "own-cut" else STYLES[style]
        plan = {path: make() for path, make in styles.items()}
        parallelize_module(model, mesh, plan)
        model.sums = style == "rowwise-partial"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer, dims=json.loads(dims)) as trace:
        for x in torch.randn(2, 3, 6, 4, generator=generator):
            output = model(x)
            if isinstance(output, DTensor):
                output = output.full_tensor()
            loss = output.square().mean()
            trace.loss(loss)
            (loss / 2).backward()
        optimizer.step()
        trace.step()
    return 0
