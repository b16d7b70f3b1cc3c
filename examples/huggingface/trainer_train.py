"""Entry point: trains a small model with ``transformers.Trainer``.

``python -m ttrace.examples.huggingface.trainer_train`` runs on one process;
``torchrun --nproc-per-node 2 -m ttrace.examples.huggingface.trainer_train --layout
fsdp2`` on two. On CPU.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from ttrace.examples.huggingface.arguments import parse_arguments
from ttrace.examples.huggingface.data import Samples
from ttrace.examples.huggingface.models import block_class, build_model
from ttrace.examples.huggingface.processes import pass_for_gpus, run_training
from ttrace.examples.patches import Patch
from ttrace.examples.script_options import num_microbatches
from ttrace.frontends.torch_training_loops import trainer_callback


class InOrderTrainer(Trainer):
    """Every run sees the samples in the same order."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        assert isinstance(self.train_dataset, Samples)
        return SequentialSampler(self.train_dataset)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains once; may be called again in the same process.

    What a ``--patch`` changed stays changed.

    Args:
        argv: Options; those of the process if None.

    Returns:
        Exit status: 0, or 2 after a mistake of the user.
    """
    args = parse_arguments("ttrace.examples.huggingface.trainer_train", argv)
    return run_training(_train, args)


def _train(args: argparse.Namespace, world_size: int) -> None:
    patch = Patch(args.patch)
    patch.call("before_build", args)
    model = build_model(args.model, seed=args.seed, recompute=args.recompute)
    patch.call("after_build", args, [model])
    samples = Samples(
        args.global_batch_size * args.train_iters,
        args.seq_length,
        uneven_lengths=args.uneven_lengths,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as out:
        trainer = InOrderTrainer(
            model=model,
            args=training_arguments(args, out, world_size),
            train_dataset=samples,
            eval_dataset=samples,
            callbacks=[trainer_callback()],
        )
        print(f"loss {trainer.train().training_loss:.9g}")
    patch.call("after_training", args, [model])


def training_arguments(
    args: argparse.Namespace, out: str, world_size: int
) -> TrainingArguments:
    """What the Trainer is told, on this number of processes.

    Args:
        args: The command line.
        out: Folder that it may write to.
        world_size: Number of processes.
    """
    layout: dict[str, Any] = {}
    if world_size > 1 and args.layout != "ddp":
        layout["fsdp"] = True
        layout["fsdp_config"] = {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": [block_class(args.model)],
        }
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=args.train_iters,
        per_device_train_batch_size=args.micro_batch_size,
        gradient_accumulation_steps=num_microbatches(args, world_size),
        optim="sgd" if args.optimizer == "sgd" else "adamw_torch",
        learning_rate=args.lr,
        max_grad_norm=args.max_grad_norm,
        bf16=args.bf16,
        eval_strategy="steps" if args.evaluate else "no",
        eval_steps=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=args.seed,
        **layout,
    )
    if layout:
        pass_for_gpus()
    return arguments


if __name__ == "__main__":
    sys.exit(main())
