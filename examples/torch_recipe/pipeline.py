"""Stages of torch.distributed.pipelining."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from ttrace.examples.torch_recipe.data import Batch
from ttrace.examples.torch_recipe.llama import Llama
from ttrace.examples.torch_recipe.place import Place

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of logits and labels."""


def cut(model: nn.Module, place: Place) -> PipelineStage:
    """Leaves the model with this rank's part of it, which is a stage."""
    assert isinstance(model, Llama)
    keep_stage(model, place.rank, place.size)
    return PipelineStage(model, place.rank, place.size, torch.device("cpu"))


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
    stage: PipelineStage, num_microbatches: int, loss: Loss
) -> Schedule1F1B:
    """The schedule; gradients are summed over micro-batches, as the loss is."""
    return Schedule1F1B(stage, num_microbatches, loss_fn=loss, scale_grads=False)


def run_schedule(
    schedule: Schedule1F1B, batches: Sequence[Batch], place: Place
) -> None:
    """Forward and backward of all micro-batches."""
    inputs, labels = whole_step(batches)
    is_first, is_last = place.rank == 0, place.rank == place.size - 1
    schedule.step(
        *((inputs,) if is_first else ()),
        target=labels if is_last else None,
        losses=[] if is_last else None,
    )


def whole_step(batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of all micro-batches, which the schedule divides again."""
    return (
        torch.cat([batch.inputs for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
    )
