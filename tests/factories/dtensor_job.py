"""A plain training script that torch shards itself: FSDP2, DTensor TP, both, or not.

A worker of ``examples/worker_pool.py`` runs ``main``, or ``python -m`` under torchrun.
What it prints of a rank is the same whether it is recorded or not.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from ttrace.frontends import torch_capture

BATCH = 8


class Model(nn.Module):
    """Sizes that some meshes do not divide: 5 and 3 rows on 2 and 4 ranks."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 12)
        self.down = nn.Linear(12, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.up(x))
        return self.head(self.norm(self.down(hidden)))


def main(argv: Sequence[str]) -> int:
    """Trains two steps, laid out as the first argument says."""
    (layout,) = argv
    torch.manual_seed(0)
    model = Model()
    generator = torch.Generator().manual_seed(1)
    batches = torch.randn(2, BATCH, 6, generator=generator)
    dp = _shard(model, layout, dist.get_world_size())
    rank, size = (0, 1) if dp is None else (dp.get_local_rank(), dp.size())
    # With DTensors and plain tensors side by side, torch wants them one by one.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
    with torch_capture.trace(model, optimizer) as trace:
        for batch in batches:
            loss = model(batch.chunk(size)[rank]).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    for name, parameter in model.named_parameters():
        local = parameter.detach()
        if isinstance(local, DTensor):
            local = local.to_local()
        print(name, [value.hex() for value in local.double().flatten().tolist()])
    return 0


def _shard(model: Model, layout: str, world_size: int) -> DeviceMesh | None:
    """Shards the model; the mesh of its data parallelism, or None."""
    if layout == "one":
        return None
    if layout == "fsdp":
        mesh = init_device_mesh("cpu", (world_size,))
        fully_shard(model.up, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return mesh
    if layout == "hsdp":
        mesh = init_device_mesh(
            "cpu", (2, world_size // 2), mesh_dim_names=("replicate", "shard")
        )
        fully_shard(model, mesh=mesh)
        return mesh._flatten("both")
    assert layout in ("tp", "fsdp-tp")
    tp_size = world_size if layout == "tp" else 2
    mesh = init_device_mesh(
        "cpu", (world_size // tp_size, tp_size), mesh_dim_names=("dp", "tp")
    )
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    parallelize_module(model, mesh["tp"], plan)
    if layout == "fsdp-tp":
        fully_shard(model, mesh=mesh["dp"])
        return mesh["dp"]
    return None


if __name__ == "__main__":
    import sys

    dist.init_process_group("gloo")
    status = main(sys.argv[1:])
    dist.destroy_process_group()
    sys.exit(status)
