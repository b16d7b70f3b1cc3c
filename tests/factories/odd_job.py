"""Scripts that get something wrong about their meshes, or whose loss is NaN.

A worker of ``examples/worker_pool.py`` runs ``main``: the name of what is odd, and the
file for the parameters that training gives, of each rank.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from ttrace.frontends import torch_capture


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)

    def forward(self, x, unused=None):
        return self.down(self.act(self.up(x)))


def main(argv: Sequence[str]) -> int:
    """Trains two steps."""
    mode, out = argv
    rank = dist.get_rank()
    torch.manual_seed(0)
    plain = Model()
    model: nn.Module = plain
    unused = ()
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    if mode == "small-mesh":
        mesh = DeviceMesh("cpu", [0, 1], mesh_dim_names=("tp",))
        if rank < 2:
            parallelize_module(plain, mesh, plan)
    elif mode in ("other-mesh", "same-axis"):
        parallelize_module(
            plain, init_device_mesh("cpu", (2,), mesh_dim_names=("tp",)), plan
        )
        axis = "tp" if mode == "same-axis" else "other"
        other = DeviceMesh("cpu", [1, 0], mesh_dim_names=(axis,))
        unused = (distribute_tensor(torch.ones(4, 4), other, [Shard(0)]),)
    elif mode == "nan":
        model = nn.parallel.DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    is_shared = mode in ("other-mesh", "same-axis", "small-mesh")
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            batches = torch.randn(2, 3, 4, generator=generator)
            own = batches[:1] if is_shared else batches[rank : rank + 1]
            for x in batches if mode == "one" else own:
                loss = model(x, *unused).square().mean()
                if mode == "nan" and rank == 1:
                    loss = loss * float("nan")
                trace.loss(loss)
                (loss / (2 if mode == "one" else 1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    values = [parameter.detach() for parameter in plain.parameters()]
    local = [x.to_local() if isinstance(x, DTensor) else x for x in values]
    torch.save(local, f"{out}.{rank}")
    return 0
