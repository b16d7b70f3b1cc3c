"""A small GPT on Megatron-Core, in the steps of its quick start; ttrace can record it.

Written for GPUs, as a user's script would be::

    torchrun --nproc-per-node 2 traced.py --tensor-model-parallel-size 2
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.utils.data import DataLoader, TensorDataset

from ttrace.frontends.megatron_adapter import trace_steps

VOCAB_SIZE = 96
SEQUENCE_LENGTH = 32
MICRO_BATCH_SIZE = 2
GLOBAL_BATCH_SIZE = 8
NUM_STEPS = 2


def build_model() -> GPTModel:
    """Two layers, replicated or cut as the process groups say."""
    config = TransformerConfig(
        num_layers=2,
        hidden_size=48,
        num_attention_heads=4,
        use_cpu_initialization=True,
        pipeline_dtype=torch.float32,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return GPTModel(
        config,
        get_gpt_layer_local_spec(),
        vocab_size=VOCAB_SIZE,
        max_sequence_length=SEQUENCE_LENGTH,
    )


def batches() -> Iterator[torch.Tensor]:
    """Micro-batches of this data-parallel rank, dealt out in turn; no two are equal."""
    numbers = torch.arange(1024)
    tokens = (numbers[:, None] * 31 + torch.arange(SEQUENCE_LENGTH + 1) * 7) % 101
    dataset = TensorDataset(tokens % VOCAB_SIZE)
    loader = DataLoader(dataset, batch_size=MICRO_BATCH_SIZE, drop_last=True)
    rank = parallel_state.get_data_parallel_rank()
    size = parallel_state.get_data_parallel_world_size()
    for (samples,) in itertools.islice(loader, rank, None, size):
        yield samples


def forward_step(
    data: Iterator[torch.Tensor], model: torch.nn.Module
) -> tuple[torch.Tensor, Callable[..., Any]]:
    """Output of one micro-batch, and what makes its loss of it."""
    samples = next(data).to("cuda")
    tokens, labels = samples[:, :-1], samples[:, 1:].contiguous()
    positions = torch.arange(SEQUENCE_LENGTH, device="cuda").expand_as(tokens)
    is_later = torch.ones(
        1, 1, SEQUENCE_LENGTH, SEQUENCE_LENGTH, dtype=torch.bool, device="cuda"
    ).triu(1)
    losses = model(tokens, positions, is_later, labels=labels)
    return losses, partial(mean_loss, torch.ones_like(losses))


def mean_loss(
    mask: torch.Tensor, losses: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean over the tokens that count."""
    loss = torch.sum(losses * mask) / mask.sum()
    return loss, {"loss": loss.detach().clone()}


def main() -> None:
    """Trains for a few steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tensor-model-parallel-size", type=int, default=1)
    tp = parser.parse_args().tensor_model_parallel_size

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp)
    model_parallel_cuda_manual_seed(123)
    torch.manual_seed(123)

    model = build_model().to("cuda")
    config = model.config
    ddp_config = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
    chunk = DistributedDataParallel(config, ddp_config, model)
    optimizer = get_megatron_optimizer(OptimizerConfig(lr=1e-3), [chunk])
    config.finalize_model_grads_func = finalize_model_grads
    forward_backward = get_forward_backward_func()
    data = batches()

    data_parallel_size = parallel_state.get_data_parallel_world_size()
    for step in trace_steps(range(NUM_STEPS), chunk, optimizer):
        chunk.zero_grad_buffer()
        optimizer.zero_grad()
        losses = forward_backward(
            forward_step_func=forward_step,
            data_iterator=data,
            model=chunk,
            num_microbatches=GLOBAL_BATCH_SIZE
            // (MICRO_BATCH_SIZE * data_parallel_size),
            seq_length=SEQUENCE_LENGTH,
            micro_batch_size=MICRO_BATCH_SIZE,
            forward_only=False,
        )
        optimizer.step()
        if torch.distributed.get_rank() == 0:
            print(f"step {step}: loss {losses[-1]['loss'].item():.6f}")

    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
