"""Five samples for two ranks: one of them runs out of inputs in the last step.

A worker of ``examples/worker_pool.py`` runs ``main``: ``one``, ``join`` (divides by all
ranks), ``join-effective`` (by those that still have inputs), or ``idle`` (no wrapper; a
rank without inputs still sums gradients and steps).
"""

import contextlib
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from ttrace.frontends import torch_capture

BATCHES, RANKS = 5, 2


def main(argv: Sequence[str]) -> int:
    """Trains three steps; ``one`` divides the last loss by what it is told to."""
    mode, last_divisor = argv[0], int(argv[1]) if len(argv) > 1 else RANKS
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    generator = torch.Generator().manual_seed(3)
    batches = torch.randn((BATCHES, 3, 4), generator=generator)
    joining = contextlib.nullcontext()
    if mode.startswith("join"):
        model = nn.parallel.DistributedDataParallel(model)
        is_initial = mode == "join"
        joining = model.join(divide_by_initial_world_size=is_initial)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace, joining:
        for start in range(0, BATCHES, RANKS):
            own = batches[start : start + RANKS]
            divisor = RANKS if len(own) == RANKS else last_divisor
            if mode != "one":
                own = own[dist.get_rank() :: RANKS]
            if mode.startswith("join"):
                divisor = 1
                if not len(own):
                    break
            for batch in own:
                loss = model(batch).square().mean()
                trace.loss(loss)
                (loss / divisor).backward()
            if mode == "idle":
                for parameter in model.parameters():
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    dist.all_reduce(parameter.grad)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0
