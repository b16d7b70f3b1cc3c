"""Trains a small model, whole on one process or as stages of a pipeline.

A worker of ``examples/worker_pool.py`` runs ``main`` with the name of a schedule, or
``one``, the file for what training gives (losses and parameters, of each rank), and
options: ``per=2`` stages a rank, ``dp=ddp`` or ``dp=fsdp`` for two pipelines,
``undivided`` for a loss that the script divides itself, ``frontend`` for stages cut by
torch, ``times=4`` for gradients that one stage does not divide, ``tied`` for a weight
that the first and the last layer share (``unsummed``: nobody sums up its gradients).
"""

import copy
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import pipelining
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import schedules

from ttrace.frontends import torch_capture

NUM_MICROBATCHES, NUM_LAYERS = 4, 4
CPU = torch.device("cpu")


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.tanh(self.linear(self.norm(x)))


class Model(nn.Module):
    def __init__(self, *, is_tied: bool):
        super().__init__()
        self.layers = nn.ModuleDict({str(i): Layer() for i in range(NUM_LAYERS)})
        if is_tied:
            first, last = self.layers["0"], self.layers[str(NUM_LAYERS - 1)]
            assert isinstance(first, Layer) and isinstance(last, Layer)
            last.linear.weight = first.linear.weight

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x)
        return x


def batch(step: int, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs, targets = torch.randn(2, num_samples, 6, generator=generator)
    return inputs, targets


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def train_whole(model: Model, num_microbatches: int) -> list[torch.Tensor]:
    losses = []
    optimizer = optimizer_of(model)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            both = (t.split(2) for t in batch(step, 2 * num_microbatches))
            for x, y in zip(*both, strict=True):
                loss = nn.functional.mse_loss(model(x), y)
                trace.loss(loss)
                (loss / num_microbatches).backward()
                losses.append(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return losses


class Pipeline:
    """This rank's stages.

    Args:
        model: The whole model.
        mesh: With axes pp and dp.
        indices: Of the stages, in the model.
        num_stages: Of the whole model.
    """

    def __init__(
        self, model: Model, mesh: DeviceMesh, indices: list[int], num_stages: int
    ):
        self._model, self._mesh = model, mesh
        self._indices, self._num_stages = indices, num_stages
        self._per_stage = NUM_LAYERS // num_stages

    def cut_by_torch(self) -> list:
        at = {
            f"layers.{self._per_stage * index}": pipelining.SplitPoint.BEGINNING
            for index in range(1, self._num_stages)
        }
        pipe = pipelining.pipeline(self._model, (batch(0, 2)[0],), split_spec=at)
        group = self._mesh.get_group("pp")
        return [pipe.build_stage(index, CPU, group) for index in self._indices]

    def cut_by_hand(self, data_parallel: str) -> list:
        return [self._stage(index, data_parallel) for index in self._indices]

    def _stage(self, index: int, data_parallel: str) -> pipelining.PipelineStage:
        part = copy.deepcopy(self._model)
        part.layers = nn.ModuleDict(
            {k: v for k, v in part.layers.items() if int(k) // self._per_stage == index}
        )
        module: nn.Module = part
        if data_parallel == "fsdp":
            for layer in part.layers.values():
                fully_shard(layer, mesh=self._mesh["dp"])
            fully_shard(part, mesh=self._mesh["dp"])
        elif data_parallel == "ddp":
            group = self._mesh.get_group("dp")
            module = nn.parallel.DistributedDataParallel(part, process_group=group)
        return pipelining.PipelineStage(
            module, index, self._num_stages, CPU, group=self._mesh.get_group("pp")
        )


def train_pipeline(
    model: Model, schedule_name: str, options: dict[str, str]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, and the parameters of this rank's stages."""
    dp = 2 if "dp" in options else 1
    pp = dist.get_world_size() // dp
    mesh = init_device_mesh("cpu", (pp, dp), mesh_dim_names=("pp", "dp"))
    rank, share = (mesh.get_local_rank(axis) for axis in ("pp", "dp"))
    num_stages = pp * int(options.get("per", 1))
    indices = list(range(rank, num_stages, pp))
    if schedule_name in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV"):
        indices = [rank, num_stages - 1 - rank]
    pipeline = Pipeline(model, mesh, indices, num_stages)
    if "frontend" in options:
        stages = pipeline.cut_by_torch()
    else:
        stages = pipeline.cut_by_hand(options.get("dp", ""))
    parts = [stage.submod for stage in stages]
    optimizers = [optimizer_of(part) for part in parts]
    losses = []
    given = parts if len(parts) > 1 else parts[0]
    with torch_capture.trace(given, *optimizers) as trace:

        def loss_function(output, target):
            loss = nn.functional.mse_loss(output, target)
            trace.loss(loss)
            return loss / NUM_MICROBATCHES if "undivided" in options else loss

        schedule = getattr(schedules, schedule_name)(
            stages if len(stages) > 1 else stages[0],
            n_microbatches=NUM_MICROBATCHES,
            loss_fn=loss_function,
            scale_grads="undivided" not in options,
        )
        for step in range(2):
            both = (t.split(2) for t in batch(step, 2 * NUM_MICROBATCHES * dp))
            x, y = (torch.cat(tensors[share::dp]) for tensors in both)
            found: list[torch.Tensor] = []
            takes = any(stage.is_first for stage in stages)
            gives = any(stage.is_last for stage in stages)
            schedule.step(
                *((x,) if takes else ()), target=y if gives else None, losses=found
            )
            losses += [loss.detach() for loss in found]
            if "times" in options and rank == 1:
                for parameter in parts[0].parameters():
                    assert parameter.grad is not None
                    parameter.grad *= float(options["times"])
            if "tied" in options and "unsummed" not in options:
                _sum_tied(parts, indices, num_stages, mesh)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            trace.step()
    assert not any("forward_one_chunk" in vars(stage) for stage in stages)
    parameters = {
        f"{index}.{name}": value.to_local() if hasattr(value, "to_local") else value
        for index, part in zip(indices, parts, strict=True)
        for name, value in part.state_dict().items()
    }
    return losses, parameters


def _sum_tied(
    parts: Sequence[nn.Module], indices: list[int], num_stages: int, mesh: DeviceMesh
) -> None:
    """The first and the last stage sum up the gradients of their common weight."""
    for part, index in zip(parts, indices, strict=True):
        if index in (0, num_stages - 1):
            layer = "0" if index == 0 else str(NUM_LAYERS - 1)
            weight = part.get_parameter(f"layers.{layer}.linear.weight")
            assert weight.grad is not None
            dist.all_reduce(weight.grad, group=mesh.get_group("pp"))


def main(argv: Sequence[str]) -> int:
    schedule_name, out, *rest = argv
    options = {key: value for key, _, value in (text.partition("=") for text in rest)}
    torch.manual_seed(0)
    model = Model(is_tied="tied" in options)
    if schedule_name == "one":
        losses = train_whole(model, NUM_MICROBATCHES * int(options.get("dp", 1)))
        parameters = model.state_dict()
    else:
        losses, parameters = train_pipeline(model, schedule_name, options)
    torch.save({"losses": losses, **parameters}, f"{out}.{dist.get_rank()}")
    return 0
