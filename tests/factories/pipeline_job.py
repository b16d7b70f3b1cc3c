"""Trains a small model, whole on one process or as a pipeline of two stages.

Run by torchrun, with the name of a schedule, or ``one``, and the file for what training
gives: losses and parameters, of each rank.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import pipelining

from ttrace.frontends import torch_capture

NUM_MICROBATCHES = 4


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(
            {str(i): nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for i in range(4)}
        )

    def forward(self, x):
        for layer in self.layers.values():
            x = x + layer(x)
        return x


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs, targets = torch.randn(2, 8, 6, generator=generator)
    return inputs, targets


def train_whole(model: Model) -> list[torch.Tensor]:
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            inputs, targets = (t.chunk(NUM_MICROBATCHES) for t in batch(step))
            for x, y in zip(inputs, targets, strict=True):
                loss = nn.functional.mse_loss(model(x), y)
                trace.loss(loss)
                (loss / NUM_MICROBATCHES).backward()
                losses.append(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return losses


def train_pipeline(model: Model, schedule_name: str, rank: int) -> list[torch.Tensor]:
    losses = []
    kept = {k: v for k, v in model.layers.items() if int(k) // 2 == rank}
    model.layers = nn.ModuleDict(kept)
    stage = pipelining.PipelineStage(model, rank, 2, torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:

        def loss_function(output, target):
            loss = nn.functional.mse_loss(output, target)
            trace.loss(loss)
            return loss

        schedule = getattr(pipelining, schedule_name)(
            stage, n_microbatches=NUM_MICROBATCHES, loss_fn=loss_function
        )
        for step in range(2):
            x, y = batch(step)
            found: list[torch.Tensor] = []
            arguments = (x,) if rank == 0 else ()
            schedule.step(*arguments, target=y if rank else None, losses=found)
            losses += [loss.detach() for loss in found]
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    assert "forward_one_chunk" not in vars(stage)
    return losses


def main() -> None:
    schedule_name, out = sys.argv[1:]
    torch.manual_seed(0)
    model = Model()
    rank = int(os.environ.get("RANK", 0))
    if schedule_name == "one":
        losses = train_whole(model)
    else:
        dist.init_process_group("gloo")
        losses = train_pipeline(model, schedule_name, rank)
        dist.destroy_process_group()
    results = {"losses": losses, **model.state_dict()}
    torch.save(results, f"{out}.{rank}")


if __name__ == "__main__":
    main()
