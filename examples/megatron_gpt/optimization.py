"""Gradient buffers, data parallelism, the optimizer and its learning rates."""

import argparse
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
)
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.transformer_config import TransformerConfig


def wrap_models(
    args: argparse.Namespace,
    config: TransformerConfig,
    models: list[torch.nn.Module],
) -> tuple[list[DistributedDataParallel], MegatronOptimizer]:
    """Gradient buffers, data parallelism and the optimizer around the models."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        # In float16 an infinite gradient is no error: the loss scale was too large.
        check_for_nan_in_grad=not args.fp16,
        use_distributed_optimizer=args.use_distributed_optimizer,
        overlap_grad_reduce=args.overlap_grad_reduce,
        overlap_param_gather=args.overlap_param_gather,
        bucket_size=args.ddp_bucket_size,
        num_distributed_optimizer_instances=args.num_distributed_optimizer_instances,
    )
    chunks = [DistributedDataParallel(config, ddp_config, model) for model in models]
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer=args.optimizer,
            lr=args.lr,
            min_lr=_last_rate(args),
            weight_decay=args.weight_decay,
            adam_beta1=args.adam_beta1,
            adam_beta2=args.adam_beta2,
            adam_eps=args.adam_eps,
            clip_grad=args.clip_grad,
            bf16=args.bf16,
            fp16=args.fp16,
            params_dtype=config.params_dtype,
            loss_scale=args.loss_scale,
            initial_loss_scale=args.initial_loss_scale,
            min_loss_scale=min(1.0, args.initial_loss_scale),
            loss_scale_window=args.loss_scale_window,
            hysteresis=args.hysteresis,
            use_distributed_optimizer=args.use_distributed_optimizer,
            overlap_param_gather=args.overlap_param_gather,
        ),
        list(chunks),
    )
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    if args.overlap_grad_reduce:
        # Gradients of all micro-batches but the last are only accumulated.
        contexts: Any = [chunk.no_sync for chunk in chunks]
        config.no_sync_func = contexts if len(contexts) > 1 else contexts[0]
    return chunks, optimizer


def make_scheduler(
    args: argparse.Namespace, optimizer: MegatronOptimizer
) -> OptimizerParamScheduler:
    """Learning rates from ``--lr`` straight to ``--min-lr``."""
    num_steps = max(args.train_iters, 1)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=args.lr,
        min_lr=_last_rate(args),
        lr_warmup_steps=0,
        lr_decay_steps=num_steps,
        lr_decay_style="linear",
        start_wd=args.weight_decay,
        end_wd=args.weight_decay,
        wd_incr_steps=num_steps,
        wd_incr_style="constant",
    )


def _last_rate(args: argparse.Namespace) -> float:
    return args.lr if args.min_lr is None else args.min_lr
