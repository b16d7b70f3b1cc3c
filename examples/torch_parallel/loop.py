"""The training loop: plain torch, and the lines that make it traceable."""

import argparse
import contextlib
import functools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from ttrace.examples.patches import Patch
from ttrace.examples.torch_parallel import pipeline, ring, tensor, ulysses
from ttrace.examples.torch_parallel.data import IGNORED, Batch, TokenSource
from ttrace.examples.torch_parallel.layouts import describe
from ttrace.examples.torch_parallel.model import Gpt, ModelSize, initial_distribution
from ttrace.examples.torch_parallel.place import Parallelism, Place
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_dims_description import DimsDescription
from ttrace.frontends.torch_initialization import initialize_parameters
from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.ir.kinds import Kind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """What the steps of a run need.

    Attributes:
        model: This rank's model, wrapped under data parallelism.
        size: Its size as a whole.
        optimizer: Of its parameters.
        description: Their layouts.
        place: This rank.
        trace: Told what hooks do not see.
    """

    model: nn.Module
    size: ModelSize
    optimizer: torch.optim.Optimizer
    description: DimsDescription
    place: Place
    trace: torch_capture.PlainTrace


def run(args: argparse.Namespace, place: Place, tokens: TokenSource) -> None:
    """Builds the model and trains it; a patch may change anything on the way.

    Raises:
        UsageError: A patch cannot be used.
    """
    patch = Patch(args.patch)
    patch.call("before_build", args)
    size = ModelSize(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        num_heads=args.num_attention_heads,
        seq_length=args.seq_length,
        vocab_size=args.vocab_size,
    )
    model = build_model(size, place, seed=args.seed)
    patch.call("after_build", args, [model])
    wrapped = wrap(model, place)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=args.lr, momentum=0.9)
    patch.call("after_wrap", args, place, [wrapped], optimizer)
    description = describe(model, place)
    with torch_capture.trace(wrapped, optimizer, description=description) as trace:
        training = Training(
            model=wrapped,
            size=size,
            optimizer=optimizer,
            description=description,
            place=place,
            trace=trace,
        )
        for step in range(args.train_iters):
            loss, norm = train_step(training, tokens.micro_batches(step))
            trace.step()
            if place.rank == 0:
                print(f"step {step} loss {loss:.7f} grad_norm {norm:.7f}")
    patch.call("after_training", args, [wrapped])


def build_model(size: ModelSize, place: Place, *, seed: int) -> Gpt:
    """This rank's model, with parameters that do not depend on the layout."""
    model = Gpt(size)
    if place.size > 1:
        parallelize(model, size, place)
    model.to(place.device)
    initialize_parameters(describe(model, place), initial_distribution, seed=seed)
    return model


def parallelize(model: Gpt, size: ModelSize, place: Place) -> None:
    """Replaces the parts that several processes do together."""
    if place.parallelism.cuts_sequence and model.embedding is not None:
        model.embedding.first_position = place.rank * (size.seq_length // place.size)
    match place.parallelism:
        case Parallelism.ULYSSES:
            ulysses.parallelize(model, place)
        case Parallelism.RING:
            ring.parallelize(model, place)
        case Parallelism.TENSOR:
            tensor.parallelize(model, size, place)
        case Parallelism.PIPELINE:
            pipeline.keep_stage(model, place)


def wrap(model: Gpt, place: Place) -> nn.Module:
    """The model with all that reduces gradients during backward."""
    if place.size > 1 and place.parallelism is Parallelism.DATA:
        return nn.parallel.DistributedDataParallel(model)
    if place.size > 1 and place.parallelism is Parallelism.TENSOR:
        tensor.register_gradient_hooks(model)
    return model


def train_step(training: Training, batches: Sequence[Batch]) -> tuple[float, float]:
    """One step.

    Returns:
        The loss per token over all samples of the step, and the norm of the gradient.
    """
    training.optimizer.zero_grad()
    place = training.place
    num_tokens = count_tokens(batches, place)
    if place.size > 1 and place.parallelism is Parallelism.PIPELINE:
        total = run_pipeline(training, batches, num_tokens)
    else:
        total = accumulate(training, batches, num_tokens)
    reduce_gradients(training.model, place)
    norm = gradient_norm(training.description, place)
    training.trace.main_grads(grad_norm=norm)
    training.optimizer.step()
    if place.parallelism is not Parallelism.TENSOR:
        dist.all_reduce(total)
    return total.item(), norm.item()


def accumulate(
    training: Training, batches: Sequence[Batch], num_tokens: torch.Tensor
) -> torch.Tensor:
    """Forward and backward of all micro-batches; the sum of this rank's losses."""
    total = torch.zeros((), device=training.place.device)
    for number, batch in enumerate(batches):
        is_last = number == len(batches) - 1
        with gradient_sync(training.model, is_last=is_last):
            logits = training.model(batch.tokens)
            loss = objective(logits, batch.labels, num_tokens, training.place)
            backward(loss, training.place)
        total += loss.detach()
        training.trace.loss(whole_loss(loss, training.place))
    return total


def run_pipeline(
    training: Training, batches: Sequence[Batch], num_tokens: torch.Tensor
) -> torch.Tensor:
    """The same, for the stages of a pipeline."""
    total = torch.zeros((), device=training.place.device)

    def on_loss(loss: torch.Tensor, number: int) -> None:
        total.add_(loss)
        training.trace.loss(loss, microbatch=number)

    assert isinstance(training.model, Gpt)
    pipeline.run_schedule(
        training.model,
        batches,
        training.place,
        hidden_size=training.size.hidden_size,
        objective=functools.partial(
            objective, num_tokens=num_tokens, place=training.place
        ),
        on_loss=on_loss,
    )
    return total


def gradient_sync(model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are averaged once, in the backward of the last micro-batch."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()


def objective(
    logits: torch.Tensor, labels: torch.Tensor, num_tokens: torch.Tensor, place: Place
) -> torch.Tensor:
    """What the tokens ``[b, s]`` of this rank add to the loss per token of the step."""
    total = nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / num_tokens


def backward(loss: torch.Tensor, place: Place) -> None:
    """Backward of a micro-batch; DistributedDataParallel will average, not sum."""
    (loss * place.data_size).backward()


def count_tokens(batches: Sequence[Batch], place: Place) -> torch.Tensor:
    """Number of tokens that count in the step, on all ranks together."""
    num_tokens = torch.stack([(batch.labels != IGNORED).sum() for batch in batches])
    total = num_tokens.sum().to(place.device)
    if place.parallelism is Parallelism.DATA or place.parallelism.cuts_sequence:
        dist.all_reduce(total)
    return total


def whole_loss(loss: torch.Tensor, place: Place) -> torch.Tensor:
    """The loss of a micro-batch, put together where each rank has a share."""
    loss = loss.detach().clone()
    if place.parallelism.cuts_sequence:
        dist.all_reduce(loss)
    return loss


def reduce_gradients(model: nn.Module, place: Place) -> None:
    """Sums the gradients of ranks that had different parts of the sequence."""
    if place.parallelism.cuts_sequence:
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)


def gradient_norm(description: DimsDescription, place: Place) -> torch.Tensor:
    """The 2-norm over all parameters of the model, each counted once; float32."""
    total = torch.zeros((), dtype=torch.float64, device=place.device)
    for named in description.parameters():
        layout = description.parameter_layout(named, Kind.MAIN_GRAD)
        gradient = named.parameter.grad
        assert not isinstance(layout, NoLayout) and gradient is not None
        part = math.prod(layout.local_shape) / math.prod(layout.global_shape)
        is_alone = place.parallelism is Parallelism.PIPELINE
        num_copies = 1.0 if is_alone else place.size * part
        total += gradient.double().square().sum() / num_copies
    dist.all_reduce(total)
    return total.sqrt().float()
