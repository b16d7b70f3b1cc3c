"""Pipeline parallelism: the stage of a rank, and one step of its schedule."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed import pipelining
from torch.distributed.pipelining import PipelineStage

from ttrace.examples.torch_native.llama import Llama
from ttrace.examples.torch_native.place import Place
from ttrace.examples.torch_native.tasks import Samples

_SCHEDULES = {"GPipe": pipelining.ScheduleGPipe, "1F1B": pipelining.Schedule1F1B}


def keep_stage(model: Llama, place: Place) -> None:
    """Takes out of the model what other stages have."""
    stage, num_stages = place.rank_of("pp"), place.size_of("pp")
    kept = layers_of(stage, num_stages, len(model.layers))
    model.layers = nn.ModuleDict(
        {str(number): model.layers[str(number)] for number in kept}
    )
    if stage > 0:
        model.embed = None
    if stage < num_stages - 1:
        model.norm = model.head = None


def layers_of(stage: int, num_stages: int, num_layers: int) -> range:
    """Numbers of the layers of one stage."""
    first = stage * num_layers // num_stages
    return range(first, (stage + 1) * num_layers // num_stages)


def make_stage(model: nn.Module, place: Place) -> PipelineStage:
    """The stage, which the trace finds on the model."""
    return PipelineStage(
        model,
        place.rank_of("pp"),
        place.size_of("pp"),
        place.device,
        group=place.mesh["pp"].get_group(),
    )


def make_schedule(
    name: str,
    stage: PipelineStage,
    num_microbatches: int,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    averages: bool,
) -> Any:
    """What runs the micro-batches of a step.

    Args:
        name: One of ``arguments.SCHEDULES``.
        stage: That of this rank.
        num_microbatches: Of one step.
        loss: Of logits and labels; called on the last stage.
        averages: Gradients are divided by the number of micro-batches.
    """
    return _SCHEDULES[name](
        stage,
        n_microbatches=num_microbatches,
        loss_fn=loss,
        scale_grads=averages,
    )


def run_schedule(
    schedule: Any, stage: PipelineStage, batches: Sequence[Samples]
) -> list[torch.Tensor]:
    """All micro-batches of a step; their losses, where this is the last stage."""
    tokens, labels = whole_step(batches)
    losses: list[torch.Tensor] = []
    inputs = (tokens,) if stage.is_first else ()
    target = labels if stage.is_last else None
    schedule.step(*inputs, target=target, losses=losses)
    return losses


def whole_step(batches: Sequence[Samples]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels of all micro-batches, which the schedule divides again."""
    tokens, labels = (
        torch.cat([batch[name] for batch in batches]) for name in ("tokens", "labels")
    )
    return tokens, labels
