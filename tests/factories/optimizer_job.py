"""A small model under DDP, FSDP2 or on one process, with optimizers of every shape.

A worker of ``examples/worker_pool.py`` runs ``main``: the layout, the name of
what optimizes, and that of a bug.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ttrace.frontends import torch_capture

MICROBATCHES = 4


class Model(nn.Module):
    def __init__(self, *, has_norm: bool):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        self.norm = nn.BatchNorm1d(8) if has_norm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.up(x) if self.norm is None else self.norm(self.up(x))
        return self.down(torch.tanh(hidden))


def main(argv: Sequence[str]) -> int:
    """Trains two steps."""
    layout, kind, *bugs = argv
    torch.manual_seed(0)
    model: nn.Module = Model(has_norm=kind == "batch-norm")
    share, shares = 0, 1
    if layout == "ddp":
        share, shares = dist.get_rank(), dist.get_world_size()
        model = nn.parallel.DistributedDataParallel(model)
    elif layout == "fsdp2":
        share, shares = dist.get_rank(), dist.get_world_size()
        fully_shard(model, mesh=init_device_mesh("cpu", (shares,)))
    optimizers = _optimizers(model, kind, bugs, is_alone=layout == "one")
    decay = 0.9 if "decay" in bugs else 0.5
    if kind.startswith("lbfgs"):
        _train_with_closures(model, optimizers[0], share, shares, kind, bugs)
        return 0
    average = AveragedModel(
        model,
        multi_avg_fn=get_ema_multi_avg_fn(decay),
        use_buffers="parameters-alone" not in bugs,
    )
    in_backward = kind == "in-backward"
    if in_backward:
        _step_in_backward(model, optimizers)
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, *optimizers, averaged=average) as trace:
        for _ in range(2):
            batches = torch.randn((MICROBATCHES, 3, 4), generator=generator)
            own = batches[share::shares]
            if in_backward:
                own = [own.flatten(0, 1)]
            for batch in own:
                loss = (model(batch) - batch).square().mean()
                trace.loss(loss)
                (loss / len(own)).backward()
            if not in_backward:
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            average.update_parameters(model)
            trace.step()
    return 0


def _train_with_closures(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    share: int,
    shares: int,
    kind: str,
    bugs: Sequence[str],
) -> None:
    """Trains two steps whose optimizer calls its closure several times in each."""
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            batches = torch.randn((MICROBATCHES, 3, 4), generator=generator)
            own = batches[share::shares]
            if kind == "lbfgs-whole":
                own = [own.flatten(0, 1)]
            calls = []

            def closure(own=own, calls=calls) -> torch.Tensor:
                is_first = not calls
                calls.append(None)
                if is_first or "kept" not in bugs:
                    optimizer.zero_grad()
                total = torch.zeros(())
                called = (
                    model.module if bugs == ["bypassed"] and not is_first else model
                )
                assert isinstance(called, nn.Module)
                for batch in own:
                    loss = (called(batch) - batch).square().mean()
                    trace.loss(loss)
                    (loss / len(own)).backward()
                    total += loss.detach() / len(own)
                return total

            optimizer.step(closure)  # pyright: ignore
            assert len(calls) == (3 if "fewer" in bugs else 4)
            trace.step()


def _optimizers(
    model: nn.Module, kind: str, bugs: Sequence[str], *, is_alone: bool
) -> list[torch.optim.Optimizer]:
    parameters = list(model.parameters())
    if kind == "in-backward":
        return [torch.optim.AdamW([p], lr=0.01) for p in parameters]
    if kind == "zero" and not is_alone:
        adam = torch.optim.AdamW
        return [ZeroRedundancyOptimizer(parameters, optimizer_class=adam, lr=0.01)]
    if kind == "muon":
        matrices = [p for p in parameters if p.dim() == 2]
        others = [p for p in parameters if p.dim() != 2]
        return [torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(others, lr=0.01)]
    if kind.startswith("lbfgs"):
        calls = 3 if "fewer" in bugs else 4
        return [torch.optim.LBFGS(parameters, lr=0.1, max_iter=calls)]
    return [torch.optim.AdamW(parameters, lr=0.01)]


def _step_in_backward(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    for parameter, optimizer in zip(model.parameters(), optimizers, strict=True):

        def step(_: torch.Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(step)
