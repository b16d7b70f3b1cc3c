"""Entry point: trains a small model in a loop of its own with ``Accelerator``.

``python -m ttrace.examples.huggingface.accelerate_train`` runs on one process;
``torchrun --nproc-per-node 2 -m ttrace.examples.huggingface.accelerate_train --layout
fsdp2`` on two. On CPU.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import get_constant_schedule_with_warmup

from ttrace.examples.huggingface.arguments import parse_arguments
from ttrace.examples.huggingface.data import Samples
from ttrace.examples.huggingface.models import block_class, build_model
from ttrace.examples.huggingface.processes import pass_for_gpus, run_training
from ttrace.examples.patches import Patch
from ttrace.examples.script_options import num_microbatches
from ttrace.frontends import torch_capture


def main(argv: Sequence[str] | None = None) -> int:
    """Trains once; may be called again in the same process.

    What a ``--patch`` changed stays changed.

    Args:
        argv: Options; those of the process if None.

    Returns:
        Exit status: 0, or 2 after a mistake of the user.
    """
    args = parse_arguments("ttrace.examples.huggingface.accelerate_train", argv)
    return run_training(_train, args)


def _train(args: argparse.Namespace, world_size: int) -> None:
    patch = Patch(args.patch)
    patch.call("before_build", args)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=num_microbatches(args, world_size),
        mixed_precision="bf16" if args.bf16 else "no",
        fsdp_plugin=_fsdp_plugin(args, world_size),
    )
    model = build_model(args.model, seed=args.seed, recompute=args.recompute)
    patch.call("after_build", args, [model])
    kind = torch.optim.SGD if args.optimizer == "sgd" else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=args.lr)
    samples = Samples(
        args.global_batch_size * args.train_iters,
        args.seq_length,
        uneven_lengths=args.uneven_lengths,
        seed=args.seed,
    )
    loader = DataLoader(samples, batch_size=args.micro_batch_size)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    scheduler = make_scheduler(optimizer, args.warmup, accelerator)
    with torch_capture.trace(model, optimizer) as trace:
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                trace.loss(loss)
                accelerator.backward(loss)
                if accelerator.sync_gradients and args.max_grad_norm:
                    accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                clear_gradients(model, optimizer)
            if accelerator.sync_gradients:
                trace.step()
                scheduler.step()
                accelerator.print(f"loss {loss.item():.9g}")
                if args.evaluate:
                    with trace.paused(), torch.no_grad():
                        model(**batch)
    patch.call("after_training", args, [model])


def make_scheduler(
    optimizer: AcceleratedOptimizer, warmup: int, accelerator: Accelerator
) -> LRScheduler:
    """A learning rate that grows over the first steps.

    It is not prepared: that would step it once for each process.
    """
    return get_constant_schedule_with_warmup(optimizer.optimizer, warmup)


def clear_gradients(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """After a step; Accelerate's optimizer does nothing while gradients accumulate."""
    optimizer.zero_grad()


def _fsdp_plugin(
    args: argparse.Namespace, world_size: int
) -> FullyShardedDataParallelPlugin | None:
    if world_size == 1 or args.layout == "ddp":
        return None
    pass_for_gpus()
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[block_class(args.model)],
    )


if __name__ == "__main__":
    sys.exit(main())
