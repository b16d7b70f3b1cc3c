"""The training loop: plain torch, and the lines that make it traceable."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor.parallel import loss_parallel
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ttrace.examples.patches import Patch
from ttrace.examples.script_options import num_microbatches
from ttrace.examples.torch_native import building, optimization, pipeline, tasks
from ttrace.examples.torch_native.data import Dealer
from ttrace.examples.torch_native.data_parallel import gradient_divisor, gradient_sync
from ttrace.examples.torch_native.place import Place
from ttrace.examples.torch_native.tasks import IGNORED, Samples, Task
from ttrace.frontends import torch_capture


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """What the steps of a run need.

    Attributes:
        args: The command line.
        place: This rank.
        task: Knows the loss.
        model: This rank's, as it is called.
        pipelined: Runs the micro-batches of a pipeline, or None.
        optimizers: Of its parameters.
        schedulers: Of their learning rates.
        scaler: Of the loss, or None.
        average: Of the parameters, or None.
        trace: Told of losses and steps.
    """

    args: argparse.Namespace
    place: Place
    task: Task
    model: nn.Module
    pipelined: "PipelinedStep | None"
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LRScheduler]
    scaler: torch.amp.GradScaler | None
    average: AveragedModel | None
    trace: torch_capture.PlainTrace


def run(args: argparse.Namespace, place: Place) -> None:
    """Builds the model and trains it; a patch may change anything on the way.

    Raises:
        UsageError: A patch cannot be used.
    """
    patch = Patch(args.patch)
    patch.call("before_build", args)
    task = building.find_task(args)
    model = building.build_model(task, args)
    patch.call("after_build", args, [model])
    wrapped = building.lay_out(model, task, args, place)
    stage = pipeline.make_stage(wrapped, place) if args.pp > 1 else None
    optimizers = optimization.make_optimizers(wrapped, args)
    patch.call("after_wrap", args, place, [wrapped], optimizers)
    schedulers = optimization.make_schedulers(optimizers, args)
    scaler = None
    if args.loss_scale:
        scaler = torch.amp.GradScaler(place.device.type, init_scale=args.loss_scale)
    average = optimization.make_average(wrapped) if args.ema else None
    torch.manual_seed(args.seed)  # what dropout begins with
    with torch_capture.trace(wrapped, *optimizers, averaged=average) as trace:
        pipelined = PipelinedStep(stage, args, place, trace) if stage else None
        training = Training(
            args=args,
            place=place,
            task=task,
            model=wrapped,
            pipelined=pipelined,
            optimizers=optimizers,
            schedulers=schedulers,
            scaler=scaler,
            average=average,
            trace=trace,
        )
        for step, batches in enumerate(own_batches(training)):
            losses = train_step(training, batches)
            trace.step()
            if args.evaluate:
                with trace.paused():
                    evaluate(wrapped, task, batches)
            for loss in losses:
                print(f"step {step} loss {loss.item():.9g}")
    patch.call("after_training", args, [wrapped])


def own_batches(training: Training) -> Iterator[list[Samples]]:
    """The micro-batches of this rank, one step after another."""
    args, place = training.args, training.place
    generator = torch.Generator().manual_seed(args.seed + 1)
    samples = training.task.samples(
        args.global_batch_size * args.train_iters, generator
    )
    dealer = Dealer(
        micro_batch_size=args.micro_batch_size,
        global_batch_size=args.global_batch_size,
        deals_samples=args.deal == "samples",
        shuffle=args.shuffle,
        rank=place.dp_rank,
        size=place.dp_size,
    )
    on_device = {name: values.to(place.device) for name, values in samples.items()}
    return dealer.batches(on_device)


def train_step(training: Training, batches: Sequence[Samples]) -> list[torch.Tensor]:
    """One update; the losses of the micro-batches, as far as this rank has them."""
    num_labels = None
    if training.args.loss_per == "step":
        num_labels = count_labels(batches, training.place)
    if training.pipelined is None:
        losses = accumulate(training, batches, num_labels)
    else:
        losses = training.pipelined(batches, num_labels)
    parameters = [p for p in training.model.parameters() if p.grad is not None]
    finish_gradients(training, parameters)
    optimization.update(training.optimizers, training.schedulers, training.scaler)
    if training.average is not None:
        training.average.update_parameters(training.model)
    clear_gradients(training)
    return losses


def accumulate(
    training: Training, batches: Sequence[Samples], num_labels: torch.Tensor | None
) -> list[torch.Tensor]:
    """Forward and backward of one micro-batch after another."""
    args, losses = training.args, []
    for number, batch in enumerate(batches):
        is_last = number == len(batches) - 1 or not args.reduce_once
        with (
            gradient_sync(training.model, is_last=is_last),
            loss_parallel() if args.loss_parallel else contextlib.nullcontext(),
        ):
            with autocast(args, batch):
                loss = training.task.loss(training.model, batch)
            if num_labels is not None:
                loss = loss * share_of(batch["labels"], num_labels)
            training.trace.loss(loss)
            backward(training, loss / len(batches) if num_labels is None else loss)
        losses.append(loss.detach())
    return losses


class PipelinedStep:
    """The micro-batches of a step as the schedule runs them.

    Args:
        stage: That of this rank.
        args: The command line.
        place: This rank.
        trace: Told the losses, on the last stage.
    """

    def __init__(
        self,
        stage: pipeline.PipelineStage,
        args: argparse.Namespace,
        place: Place,
        trace: torch_capture.PlainTrace,
    ):
        self._args = args
        self._stage = stage
        self._trace = trace
        self._num_labels: torch.Tensor | None = None
        self._schedule = pipeline.make_schedule(
            args.schedule,
            stage,
            num_microbatches(args, place.dp_size),
            self._loss,
            averages=args.loss_per == "microbatch",
        )

    def __call__(
        self, batches: Sequence[Samples], num_labels: torch.Tensor | None
    ) -> list[torch.Tensor]:
        self._num_labels = num_labels
        with autocast(self._args, batches[0]):
            return pipeline.run_schedule(self._schedule, self._stage, batches)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = tasks.token_loss(logits, labels)
        if self._num_labels is not None:
            loss = loss * share_of(labels, self._num_labels)
        self._trace.loss(loss)
        return loss


def share_of(labels: torch.Tensor, num_labels: torch.Tensor) -> torch.Tensor:
    """What the mean over these labels counts for in that over all of the step."""
    return (labels != IGNORED).sum() / num_labels


def backward(training: Training, loss: torch.Tensor) -> None:
    """Backward of a micro-batch; a wrapper that will average must not divide a sum."""
    if training.args.loss_per == "step":
        loss = loss * gradient_divisor(training.args.dp, training.place)
    if training.scaler is not None:
        loss = training.scaler.scale(loss)
    loss.backward()


def finish_gradients(training: Training, parameters: Sequence[nn.Parameter]) -> None:
    """What is left to do with gradients between backward and update."""
    args = training.args
    if args.dp == "sum":
        sum_gradients(parameters, training.place)
    if args.max_grad_norm:
        optimization.clip(
            parameters, training.optimizers, training.scaler, args.max_grad_norm
        )


def sum_gradients(parameters: Sequence[nn.Parameter], place: Place) -> None:
    """Sums gradients over the ranks that divide the samples."""
    for parameter in parameters:
        assert parameter.grad is not None
        sum_over_data_ranks(parameter.grad, place)


def count_labels(batches: Sequence[Samples], place: Place) -> torch.Tensor:
    """Number of labels that count in the step, on all ranks together."""
    counts = [(batch["labels"] != IGNORED).sum() for batch in batches]
    total = torch.stack(counts).sum()
    sum_over_data_ranks(total, place)
    return total


def sum_over_data_ranks(tensor: torch.Tensor, place: Place) -> None:
    """In place, over the ranks that divide the samples."""
    for axis in place.dp_axes:
        dist.all_reduce(tensor, group=place.mesh[axis].get_group())


def clear_gradients(training: Training) -> None:
    """Once the step is done."""
    for optimizer in training.optimizers:
        optimizer.zero_grad()


def evaluate(model: nn.Module, task: Task, batches: Sequence[Samples]) -> None:
    """A look at the model between two steps."""
    model.eval()
    with torch.no_grad():
        for batch in batches:
            task.loss(model, batch)
    model.train()


def autocast(args: argparse.Namespace, batch: Samples) -> AbstractContextManager:
    """Computes in bfloat16 inside, if the run is to."""
    return torch.autocast(
        next(iter(batch.values())).device.type,
        dtype=torch.bfloat16,
        enabled=args.precision == "autocast",
    )
