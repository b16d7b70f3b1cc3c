"""The training loop: plain torch, and the lines that make it traceable."""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.distributed.tensor.parallel import loss_parallel

from ttrace.examples.megatron_gpt.patches import Patch
from ttrace.examples.torch_native import (
    data_parallel,
    other_models,
    pipeline,
    tensor_parallel,
)
from ttrace.examples.torch_native.data import Dealer
from ttrace.examples.torch_native.llama import Llama, LlamaSize
from ttrace.examples.torch_native.place import Place
from ttrace.examples.torch_native.tasks import (
    Samples,
    Task,
    language_loss,
    token_loss,
    token_samples,
)
from ttrace.frontends import torch_capture

TrainStep = Callable[[Sequence[Samples]], list[torch.Tensor]]
"""Forward and backward of the micro-batches of a step; their losses, as far as this
rank has them."""


def run(args: argparse.Namespace, place: Place) -> None:
    """Builds the model and trains it; a patch may change anything on the way.

    Raises:
        UsageError: A patch cannot be used.
    """
    patch = Patch(args.patch)
    patch.call("before_build", args)
    task = find_task(args)
    torch.manual_seed(
        args.seed
    )  # every rank makes the whole model, then takes its part
    model = task.model()
    patch.call("after_build", args, [model])
    wrapped = lay_out(model, task, args, place)
    stage = pipeline.make_stage(wrapped, place) if args.pp > 1 else None
    optimizer = make_optimizer(wrapped, args)
    patch.call("after_wrap", args, place, [wrapped], optimizer)
    with torch_capture.trace(wrapped, optimizer) as trace:
        accumulate: TrainStep
        if stage is None:
            accumulate = Accumulation(wrapped, task, args, trace)
        else:
            accumulate = PipelinedStep(stage, args, place, trace)
        for step, batches in enumerate(own_batches(task, args, place)):
            losses = accumulate(batches)
            if args.max_grad_norm:
                nn.utils.clip_grad_norm_(wrapped.parameters(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
            for loss in losses:
                print(f"step {step} loss {loss.item():.9g}")
    patch.call("after_training", args, [wrapped])


def find_task(args: argparse.Namespace) -> Task:
    """What ``--model`` names."""
    if args.model in other_models.TASKS:
        return other_models.TASKS[args.model]
    if args.model != "llama":
        # Here, as it imports transformers, which the others do without.
        from ttrace.examples.torch_native import transformers_models

        return transformers_models.TASKS[args.model]
    size = LlamaSize(
        num_layers=args.num_layers,
        num_kv_heads=args.num_kv_heads,
        tied=args.tie_embeddings,
    )
    return Task(
        model=lambda: Llama(size),
        samples=token_samples(size.vocab_size, args.seq_length),
        loss=language_loss,
        blocks=("Block",),
    )


def lay_out(
    model: nn.Module, task: Task, args: argparse.Namespace, place: Place
) -> nn.Module:
    """This rank's part of the model, with everything that torch puts around it."""
    if isinstance(model, Llama):
        if args.pp > 1:
            pipeline.keep_stage(model, place)
        if args.tp > 1:
            tensor_parallel.parallelize(
                model,
                place.mesh["tp"],
                is_sequence=args.sp,
                is_loss_parallel=args.loss_parallel,
            )
    model.to(place.device)
    data_parallel.recompute(model, task.blocks, args.checkpoint)
    if args.compile and args.compile_blocks:
        for layer in data_parallel.layers_of(model, task.blocks):
            layer.compile(backend=args.compile)
    wrapped = data_parallel.wrap(
        model,
        place,
        args.dp,
        blocks=task.blocks,
        is_mixed=args.precision == "mixed",
    )
    if args.compile and not args.compile_blocks:
        wrapped.compile(backend=args.compile)
    return wrapped


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """Of all parameters of this rank."""
    # Under tensor parallelism plain tensors and DTensors are not updated together.
    foreach = False if args.tp > 1 else None
    if args.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=args.lr, momentum=0.9, foreach=foreach
        )
    return torch.optim.AdamW(model.parameters(), lr=args.lr, foreach=foreach)


def own_batches(task: Task, args: argparse.Namespace, place: Place):
    """The micro-batches of this rank, one step after another."""
    generator = torch.Generator().manual_seed(args.seed + 1)
    samples = task.samples(args.global_batch_size * args.train_iters, generator)
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


class Accumulation:
    """Forward and backward of one micro-batch after another.

    Args:
        model: Laid out.
        task: Knows its loss.
        args: The command line.
        trace: Told the losses.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        args: argparse.Namespace,
        trace: torch_capture.PlainTrace,
    ):
        self._model = model
        self._task = task
        self._args = args
        self._trace = trace

    def __call__(self, batches: Sequence[Samples]) -> list[torch.Tensor]:
        losses = []
        args = self._args
        for number, batch in enumerate(batches):
            is_last = number == len(batches) - 1 or not args.reduce_once
            with (
                data_parallel.reduces(self._model, is_last),
                loss_parallel() if args.loss_parallel else contextlib.nullcontext(),
            ):
                with autocast(args, batch):
                    loss = self._task.loss(self._model, batch)
                self._trace.loss(loss)
                (loss / len(batches)).backward()
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
        stage,
        args: argparse.Namespace,
        place: Place,
        trace: torch_capture.PlainTrace,
    ):
        def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            value = token_loss(logits, labels)
            trace.loss(value)
            return value

        per_forward = args.micro_batch_size * place.dp_size
        self._args = args
        self._stage = stage
        self._schedule = pipeline.make_schedule(
            args.schedule, stage, args.global_batch_size // per_forward, loss
        )

    def __call__(self, batches: Sequence[Samples]) -> list[torch.Tensor]:
        with autocast(self._args, batches[0]):
            return pipeline.run_schedule(self._schedule, self._stage, batches)


def autocast(args: argparse.Namespace, batch: Samples) -> AbstractContextManager:
    """Computes in bfloat16 inside, if the run is to."""
    return torch.autocast(
        next(iter(batch.values())).device.type,
        dtype=torch.bfloat16,
        enabled=args.precision == "autocast",
    )
