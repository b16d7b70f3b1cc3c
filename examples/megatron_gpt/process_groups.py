"""Process groups and Megatron's global state: set up for one run, and taken down."""

import argparse
import contextlib
import gc
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import (
    destroy_num_microbatches_calculator,
    init_num_microbatches_calculator,
)
from megatron.core.tensor_parallel.random import (
    initialize_rng_tracker,
    model_parallel_cuda_manual_seed,
)
from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper


@contextlib.contextmanager
def default_process_group() -> Iterator[None]:
    """A default process group: the one that exists, torchrun's, or of one process."""
    if dist.is_initialized():
        yield
        return
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    backend = "nccl" if has_gpu else "gloo"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:  # started without torchrun: nobody to meet, so no port is needed
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def model_parallelism(args: argparse.Namespace) -> Iterator[None]:
    """Megatron's groups, generators and counters, as long as one run lasts.

    Several runs of different layouts may follow one another in one process.
    """
    experts = args.num_experts is not None
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=(
            args.virtual_pipeline_model_parallel_size
        ),
        context_parallel_size=args.context_parallel_size,
        expert_model_parallel_size=args.expert_model_parallel_size,
        expert_tensor_parallel_size=(
            args.expert_tensor_parallel_size if experts else None
        ),
        num_distributed_optimizer_instances=args.num_distributed_optimizer_instances,
    )
    try:
        init_num_microbatches_calculator(
            rank=dist.get_rank(),
            rampup_batch_size=None,
            global_batch_size=args.global_batch_size,
            micro_batch_size=args.micro_batch_size,
            data_parallel_size=args.data_parallel_size,
        )
        torch.manual_seed(1 + args.seed)
        model_parallel_cuda_manual_seed(1 + args.seed)
        yield
    finally:
        initialize_rng_tracker(force_reset=True)
        destroy_num_microbatches_calculator()
        MTPLossLoggingHelper.tracker.clear()  # sized by the model that came first
        _destroy_groups()


def _destroy_groups() -> None:
    # destroy_model_parallel() only forgets the groups; their threads and connections
    # would stay until the process ends. The list starts with None, for the default one.
    groups = parallel_state._global_process_group_list or ()
    parallel_state.destroy_model_parallel()
    for group in groups:
        if group is not None and group in dist.distributed_c10d._world.pg_map:
            dist.destroy_process_group(group)
    # The models hold groups too, and are part of cycles. Dozens of groups with threads
    # that wake up a hundred times a second would slow down every later run.
    groups = ()
    gc.collect()
