"""Pipeline parallelism: the stage of a rank, and one step of its schedule."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed import pipelining

from ttrace.examples.torch_native.llama import Llama
from ttrace.examples.torch_native.place import Place
from ttrace.examples.torch_native.tasks import Samples

_SCHEDULES = {"GPipe": pipelining.ScheduleGPipe, "1F1B": pipelining.Schedule1F1B}


def keep_stage(model: Llama, place: Place) -> None:
    """Takes out of the model what other stages have."""
    stage, num_stages = place.rank_of("pp"), place.size_of("pp")
    numbers = list(model.layers)
    first = stage * len(numbers) // num_stages
    last = (stage + 1) * len(numbers) // num_stages
    model.layers = nn.ModuleDict(
        {number: model.layers[number] for number in numbers[first:last]}
    )
    if stage > 0:
        model.tok_embeddings = None
    if stage < num_stages - 1:
        model.norm = model.output = None


def make_stage(model: nn.Module, place: Place) -> pipelining.PipelineStage:
    """The stage, which the trace finds on the model."""
    return pipelining.PipelineStage(
        model,
        place.rank_of("pp"),
        place.size_of("pp"),
        place.device,
        group=place.mesh["pp"].get_group(),
    )


def make_schedule(
    name: str,
    stage: pipelining.PipelineStage,
    num_microbatches: int,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Any:
    """What runs the micro-batches of a step.

    Args:
        name: One of ``arguments.SCHEDULES``.
        stage: That of this rank.
        num_microbatches: Of one step.
        loss: Of logits and labels; called on the last stage.
    """
    return _SCHEDULES[name](stage, n_microbatches=num_microbatches, loss_fn=loss)


def run_schedule(
    schedule: Any, stage: pipelining.PipelineStage, batches: Sequence[Samples]
) -> list[torch.Tensor]:
    """All micro-batches of a step; their losses, where this is the last stage."""
    tokens, labels = (
        torch.cat([batch[name] for batch in batches]) for name in ("tokens", "labels")
    )
    losses: list[torch.Tensor] = []
    inputs = (tokens,) if stage.is_first else ()
    target = labels if stage.is_last else None
    schedule.step(*inputs, target=target, losses=losses)
    return losses
