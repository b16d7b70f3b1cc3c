"""Stages of torch.distributed.pipelining."""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleInterleaved1F1B,
)
from torch.distributed.pipelining.schedules import _PipelineSchedule

from ttrace.examples.torch_recipe.data import Batch
from ttrace.examples.torch_recipe.llama import Llama
from ttrace.examples.torch_recipe.place import Place

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of logits and labels."""


def cut(args: argparse.Namespace, place: Place, build: Callable[[], nn.Module]):
    """The stages of this rank.

    Args:
        args: The command line.
        place: This rank.
        build: Makes the whole model, always the same.

    Returns:
        The modules and, one for each, the stages of the pipeline.
    """
    per_rank = 2 if args.interleaved else 1
    num_stages = per_rank * place.size
    modules = []
    for stage in stages_of(place, per_rank):
        model = build()
        assert isinstance(model, Llama)
        keep_stage(model, stage, num_stages)
        modules.append(model)
    stages = [
        PipelineStage(module, stage, num_stages, torch.device("cpu"))
        for module, stage in zip(modules, stages_of(place, per_rank), strict=True)
    ]
    return modules, stages


def stages_of(place: Place, per_rank: int) -> list[int]:
    """Numbers of the stages of this rank: in turn over the ranks."""
    return [place.rank + turn * place.size for turn in range(per_rank)]


def keep_stage(model: Llama, stage: int, num_stages: int) -> None:
    """Drops from the model what other stages have."""
    if stage > 0:
        model.embed = None
    if stage < num_stages - 1:
        model.norm = model.head = None
    kept = layers_of(stage, num_stages, len(model.layers))
    for number in list(model.layers):
        if int(number) not in kept:
            del model.layers[number]


def layers_of(stage: int, num_stages: int, num_layers: int) -> range:
    """Numbers of the layers of one stage."""
    per_stage = num_layers // num_stages
    return range(stage * per_stage, (stage + 1) * per_stage)


def make_schedule(
    stages: Sequence[PipelineStage], num_microbatches: int, loss: Loss
) -> _PipelineSchedule:
    """The schedule; gradients are summed over micro-batches, as the loss is."""
    options = {"loss_fn": loss, "scale_grads": False}
    if len(stages) > 1:
        return ScheduleInterleaved1F1B(list(stages), num_microbatches, **options)
    return Schedule1F1B(stages[0], num_microbatches, **options)


def run_schedule(
    schedule: _PipelineSchedule, batches: Sequence[Batch], place: Place
) -> None:
    """Forward and backward of all micro-batches."""
    inputs = torch.cat([batch.inputs for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    is_first, is_last = place.rank == 0, place.rank == place.size - 1
    schedule.step(
        *((inputs,) if is_first else ()),
        target=labels if is_last else None,
        losses=[] if is_last else None,
    )
