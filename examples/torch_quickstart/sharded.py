"""The small model on one process, or sharded by FSDP2 on those that torchrun starts.

It clips gradients; --own-clipping does so by hand, and wrongly.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from ttrace.examples.torch_quickstart.train import Attention, Model
from ttrace.frontends import torch_capture

MAX_NORM = 0.1


def clip_by_hand(model: torch.nn.Module) -> None:
    """Scales this rank's shards, such that their norm is MAX_NORM at most."""
    gradients = [parameter.grad for parameter in model.parameters()]
    shards = [grad.to_local() for grad in gradients if isinstance(grad, DTensor)]
    norm = torch.stack([shard.norm() for shard in shards]).norm()
    for shard in shards:
        shard.mul_(MAX_NORM / norm.clamp(min=MAX_NORM))


def main() -> None:
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))  # as torchrun sets it
    rank = int(os.environ.get("RANK", "0"))
    torch.manual_seed(0)  # the same on all ranks, as all make the whole model
    model = Model(Attention())
    if num_ranks > 1:
        dist.init_process_group("gloo")
        fully_shard(model, mesh=init_device_mesh("cpu", (num_ranks,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            batch = torch.randint(64, (4, 33))
            tokens = batch.chunk(num_ranks)[rank]  # each rank has its own samples
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            trace.loss(loss)
            loss.backward()
            if "--own-clipping" in sys.argv:
                trace.main_grads()  # as ttrace cannot see a clipping by hand
                clip_by_hand(model)
            else:
                torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
            print(f"step {step}: loss {loss.item():.3f}")
    if num_ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
