"""The training loop: plain Megatron, and the lines that make it traceable."""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_batch_on_this_cp_rank

from ttrace.examples.megatron_gpt.architecture_options import SPARSE_ATTENTION
from ttrace.examples.megatron_gpt.arguments import resolve_arguments
from ttrace.examples.megatron_gpt.data import Batch, TokenSource
from ttrace.examples.megatron_gpt.model import build_models, make_config
from ttrace.examples.megatron_gpt.optimization import make_scheduler, wrap_models
from ttrace.examples.megatron_gpt.process_groups import (
    default_process_group,
    model_parallelism,
)
from ttrace.examples.megatron_gpt.teardown import release_models
from ttrace.examples.patches import Patch
from ttrace.frontends import megatron_adapter

LossResult = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def run(args: argparse.Namespace) -> None:
    """Trains as the options say.

    Raises:
        UsageError: The options do not fit together, or the number of processes.
    """
    with default_process_group():
        resolve_arguments(args, world_size=dist.get_world_size())
        with model_parallelism(args):
            _train(args)


def _train(args: argparse.Namespace) -> None:
    patch = Patch(args.patch)
    patch.call("before_build", args)
    config = make_config(args)
    models = build_models(args, config)
    patch.call("after_build", args, models)
    chunks, optimizer = wrap_models(args, config, models)
    patch.call("after_wrap", args, config, chunks, optimizer)
    scheduler = make_scheduler(args, optimizer)

    tokens = TokenSource(
        vocab_size=args.vocab_size,
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size,
        num_microbatches=get_num_microbatches(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        seed=args.seed,
        device=torch.device(torch.cuda.current_device()),
        loss_mask=args.loss_mask,
        num_padding=args.padding,
        gives_attention_mask=args.attention_mask,
    )
    try:
        with megatron_adapter.trace(
            chunks, optimizer, vocab_size=args.vocab_size
        ) as trace:
            for step in range(args.train_iters):
                # Every model chunk of a pipeline rank asks for its micro-batches.
                micro_batches = [tokens.micro_batches(step) for _ in chunks]
                loss, grad_norm = train_step(chunks, optimizer, micro_batches, args)
                trace.step()
                scheduler.step(increment=1)
                if dist.get_rank() == 0:
                    # Nine digits tell any two float32 apart.
                    print(f"step {step} loss {loss:.9g} grad_norm {grad_norm:.9g}")
        patch.call("after_training", args, chunks)
    finally:
        release_models(chunks)


def train_step(
    chunks: list[DistributedDataParallel],
    optimizer: Any,
    micro_batches: list[Iterator[Batch]],
    args: argparse.Namespace,
) -> tuple[float, float]:
    """One step.

    Args:
        chunks: The model chunks of this rank.
        optimizer: Megatron's optimizer.
        micro_batches: The micro-batches of this rank, once per chunk.
        args: Options of the run.

    Returns:
        The loss over all samples of the step, and the norm of the gradient.
    """
    if args.experimental_attention_variant == SPARSE_ATTENTION:
        scale_indexer_loss(args)
    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    losses = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=micro_batches if len(chunks) > 1 else micro_batches[0],
        model=list(chunks),
        num_microbatches=get_num_microbatches(),
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size,
        forward_only=False,
    )
    _, grad_norm, _ = optimizer.step()
    return mean_loss(losses, args), float(grad_norm or 0.0)


def scale_indexer_loss(args: argparse.Namespace) -> None:
    """Tells the indexer's loss by what the loss of a micro-batch is divided.

    Megatron's schedules do so for the losses of routers and of multi-token prediction.
    """
    from megatron.core.transformer.experimental_attention_variant.dsa import (
        DSAIndexerLossAutoScaler,
    )

    scale = torch.tensor(1.0 / args.num_microbatches)
    DSAIndexerLossAutoScaler.set_loss_scale(scale)


def mean_loss(losses: list[dict[str, torch.Tensor]], args: argparse.Namespace) -> float:
    """The loss over all samples of a step, known to every rank.

    Args:
        losses: What ``loss_func`` reported of each micro-batch; empty but on the last
            pipeline stage.
        args: Options of the run.
    """
    mean = torch.zeros(())
    if losses:
        # [num_microbatches, 2]: sum over tokens, number of tokens
        sums = torch.stack([loss["loss"] for loss in losses])
        dist.all_reduce(sums, group=parallel_state.get_context_parallel_group())
        if args.calculate_per_token_loss:
            sums = sums.sum(0, keepdim=True)
            dist.all_reduce(sums, group=parallel_state.get_data_parallel_group())
        mean = (sums[:, 0] / sums[:, 1]).mean()
        dist.all_reduce(mean, group=parallel_state.get_data_parallel_group())
        mean /= parallel_state.get_data_parallel_world_size()
    mean = mean.to(torch.cuda.current_device())
    stages: Any = parallel_state.get_pipeline_model_parallel_group()
    dist.broadcast(
        mean, parallel_state.get_pipeline_model_parallel_last_rank(), group=stages
    )
    return mean.item()


def forward_step(
    micro_batches: Iterator[Batch], model: torch.nn.Module
) -> tuple[torch.Tensor, Callable[[torch.Tensor], LossResult]]:
    """Megatron's forward step function: output of one micro-batch, and its loss."""
    batch = part_of_context_rank(next(micro_batches))
    masks = {} if batch.padding_mask is None else {"padding_mask": batch.padding_mask}
    output = model(
        batch.tokens,
        batch.position_ids,
        batch.attention_mask,
        labels=batch.labels,
        loss_mask=batch.loss_mask,
        **masks,
    )
    return output, functools.partial(loss_func, batch.loss_mask)


def part_of_context_rank(batch: Batch) -> Batch:
    """This rank's part of every sample: in zig-zag order, if there are several."""
    tensors = {
        field.name: value
        for field in dataclasses.fields(batch)
        if (value := getattr(batch, field.name)) is not None
    }
    parts = get_batch_on_this_cp_rank(tensors)
    return Batch(**{name: part.contiguous() for name, part in parts.items()})


def loss_func(loss_mask: torch.Tensor, output: torch.Tensor) -> LossResult:
    """Sum of the losses of the tokens ``[b, s]``, number of tokens, what to report."""
    total = torch.sum(output.float() * loss_mask)
    num_tokens = loss_mask.sum().to(torch.int)
    report = torch.stack([total.detach(), num_tokens.to(total.dtype)])
    return total, num_tokens, {"loss": report}
