"""The training loop: plain Megatron, and the lines that make it traceable."""

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.core.pipeline_parallel import get_forward_backward_func

from ttrace.examples.megatron_gpt.arguments import resolve_arguments
from ttrace.examples.megatron_gpt.data import Batch, TokenSource
from ttrace.examples.megatron_gpt.model import build_models, make_config, wrap_models
from ttrace.examples.megatron_gpt.patches import Patch
from ttrace.examples.megatron_gpt.process_groups import (
    default_process_group,
    model_parallelism,
)
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

    tokens = TokenSource(
        vocab_size=args.vocab_size,
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size,
        num_microbatches=get_num_microbatches(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        seed=args.seed,
        device=torch.device(torch.cuda.current_device()),
    )
    with megatron_adapter.trace(chunks, optimizer, vocab_size=args.vocab_size) as trace:
        for step in range(args.train_iters):
            loss, grad_norm = train_step(
                chunks, optimizer, tokens.micro_batches(step), args
            )
            trace.step()
            if dist.get_rank() == 0:
                print(f"step {step} loss {loss:.7f} grad_norm {grad_norm:.7f}")


def train_step(
    chunks: list[DistributedDataParallel],
    optimizer: Any,
    micro_batches: Iterator[Batch],
    args: argparse.Namespace,
) -> tuple[float, float]:
    """One step.

    Returns:
        The loss over all samples of the step, and the norm of the gradient.
    """
    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    losses = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=micro_batches,
        model=list(chunks),
        num_microbatches=get_num_microbatches(),
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size,
        forward_only=False,
    )
    _, grad_norm, _ = optimizer.step()
    total = torch.stack([loss["loss"] for loss in losses]).mean()
    dist.all_reduce(total, group=parallel_state.get_data_parallel_group())
    num_ranks = parallel_state.get_data_parallel_world_size()
    return total.item() / num_ranks, float(grad_norm or 0.0)


def forward_step(
    micro_batches: Iterator[Batch], model: torch.nn.Module
) -> tuple[torch.Tensor, Callable[[torch.Tensor], LossResult]]:
    """Megatron's forward step function: output of one micro-batch, and its loss."""
    batch = next(micro_batches)
    output = model(batch.tokens, batch.position_ids, None, labels=batch.labels)
    return output, functools.partial(loss_func, batch.loss_mask)


def loss_func(loss_mask: torch.Tensor, output: torch.Tensor) -> LossResult:
    """Sum of the losses of the tokens ``[b, s]``, number of tokens, what to report."""
    total = torch.sum(output.float() * loss_mask)
    num_tokens = loss_mask.sum().to(torch.int)
    return total, num_tokens, {"loss": total.detach() / num_tokens}
