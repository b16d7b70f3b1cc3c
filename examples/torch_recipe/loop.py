"""The training loop."""

import argparse
import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ttrace.examples.megatron_gpt.patches import Patch
from ttrace.examples.torch_recipe import building, optimization, pipeline
from ttrace.examples.torch_recipe.arguments import Layout, num_microbatches
from ttrace.examples.torch_recipe.data import IGNORED, Batch, Source
from ttrace.examples.torch_recipe.place import Place
from ttrace.frontends import torch_capture


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """What the steps of a run need.

    Attributes:
        model: This rank's, as it is called.
        optimizers: Of its parameters.
        schedulers: Of their learning rates.
        scaler: Of the loss, or None.
        average: Of the parameters, or None.
        place: This rank.
        max_grad_norm: Largest norm of all gradients; 0 for no limit.
        trace: Told of losses and steps.
    """

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LRScheduler]
    scaler: torch.amp.GradScaler | None
    average: AveragedModel | None
    place: Place
    max_grad_norm: float
    trace: torch_capture.PlainTrace


def run(args: argparse.Namespace, place: Place) -> None:
    """Builds the model and trains it; a patch may change anything on the way."""
    patch = Patch(args.patch)
    patch.call("before_build", args)
    source = Source(
        model=args.model,
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size,
        num_microbatches=num_microbatches(args, place.data_size),
        documents=args.documents,
        uneven_lengths=args.uneven_lengths,
        seed=args.seed,
    )
    model = building.build_model(args)
    patch.call("after_build", args, [model])
    stage = None
    if place.layout is Layout.PP and not place.is_alone:
        stage = pipeline.cut(model, place)
    else:
        model = building.wrap(model, args, place)
    optimizers = optimization.make_optimizers(model, args)
    patch.call("after_wrap", args, place, [model], optimizers)
    schedulers = [
        scheduler
        for optimizer in optimizers
        if (scheduler := optimization.make_scheduler(optimizer, args)) is not None
    ]
    scaler = None
    if args.loss_scale:
        scaler = torch.amp.GradScaler("cpu", init_scale=args.loss_scale)
    torch.manual_seed(args.seed)  # what dropout begins with
    with torch_capture.trace(model, *optimizers) as trace:
        training = Training(
            model=model,
            optimizers=optimizers,
            schedulers=schedulers,
            scaler=scaler,
            average=optimization.make_average(model) if args.ema else None,
            place=place,
            max_grad_norm=args.max_grad_norm,
            trace=trace,
        )
        for step in range(args.train_iters):
            batches = source.micro_batches(step, place)
            train_step(training, batches, stage)
            trace.step()
            if args.evaluate:
                with trace.paused():
                    evaluate(model, batches)
    patch.call("after_training", args, [model])


def train_step(
    training: Training, batches: Sequence[Batch], stage: PipelineStage | None
) -> None:
    """One update."""
    num_tokens = count_tokens(batches, training.place)
    if stage is None:
        accumulate(training, batches, num_tokens)
    else:
        schedule = pipeline.make_schedule(
            stage,
            len(batches),
            lambda logits, labels: traced_loss(training, logits, labels, num_tokens),
        )
        pipeline.run_schedule(schedule, batches, training.place)
    parameters = [p for p in training.model.parameters() if p.grad is not None]
    finish_gradients(training, parameters)
    optimization.update(training.optimizers, training.schedulers, training.scaler)
    if training.average is not None:
        training.average.update_parameters(training.model)
    clear_gradients(training)


def accumulate(
    training: Training, batches: Sequence[Batch], num_tokens: torch.Tensor
) -> None:
    """Forward and backward of all micro-batches."""
    for number, batch in enumerate(batches):
        is_last = number == len(batches) - 1
        with gradient_sync(training.model, is_last=is_last):
            logits = training.model(*batch.model_inputs)
            loss = traced_loss(training, logits, batch.labels, num_tokens)
            backward(training, loss)


def traced_loss(
    training: Training,
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_tokens: torch.Tensor,
) -> torch.Tensor:
    """The loss of a micro-batch, which is recorded."""
    loss = token_loss(logits, labels, num_tokens)
    training.trace.loss(loss)
    return loss


def token_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_tokens: torch.Tensor
) -> torch.Tensor:
    """What these tokens add to the loss per token of the step."""
    total = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / num_tokens


def backward(training: Training, loss: torch.Tensor) -> None:
    """Backward of a micro-batch; a wrapper that will average must not divide."""
    loss = loss * training.place.gradient_divisor
    if training.scaler is not None:
        loss = training.scaler.scale(loss)
    loss.backward()


def gradient_sync(model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are reduced once, in the backward of the last micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
    if isinstance(model, nn.parallel.DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()


def finish_gradients(training: Training, parameters: Sequence[nn.Parameter]) -> None:
    """What is left to do with gradients between backward and update."""
    if training.place.layout is Layout.SUM:
        sum_gradients(parameters)
    if training.max_grad_norm:
        optimization.clip(
            parameters, training.optimizers, training.scaler, training.max_grad_norm
        )


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sums gradients over all ranks."""
    for parameter in parameters:
        dist.all_reduce(parameter.grad)


def count_tokens(batches: Sequence[Batch], place: Place) -> torch.Tensor:
    """Number of labels that count in the step, on all ranks together."""
    total = torch.stack([(batch.labels != IGNORED).sum() for batch in batches]).sum()
    if place.layout.divides_data:
        dist.all_reduce(total)
    return total


def clear_gradients(training: Training) -> None:
    """Once the step is done."""
    for optimizer in training.optimizers:
        optimizer.zero_grad()


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> None:
    """A look at the model between two steps."""
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(*batch.model_inputs)
    model.train()
