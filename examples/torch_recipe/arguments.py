"""Command line of the recipe."""

import argparse
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from ttrace.errors import UsageError


class Layout(StrEnum):
    """What several processes do; on one process none of it happens."""

    DDP = "ddp"
    """Micro-batches each; DistributedDataParallel, no_sync while accumulating."""

    SUM = "sum"
    """Micro-batches each; the script sums the gradients after the last backward."""

    FSDP2 = "fsdp2"
    """Micro-batches each; parameters are sharded by ``fully_shard``."""

    HSDP = "hsdp"
    """The same within pairs of ranks, which replicate each other."""

    TP = "tp"
    """Weights of linears; the sequence between them. DTensors."""

    PP = "pp"
    """Layers; stages of torch.distributed.pipelining."""

    @property
    def divides_data(self) -> bool:
        """Every rank has micro-batches of its own."""
        return self not in (Layout.TP, Layout.PP)

    @property
    def averages(self) -> bool:
        """The wrapper divides the sum of the gradients by the number of ranks."""
        return self in (Layout.DDP, Layout.FSDP2, Layout.HSDP)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse itself ends the process on a syntax error."""
    parser = argparse.ArgumentParser(
        prog="python -m ttrace.examples.torch_recipe.train",
        description="Trains a small model with the parallelism of torch itself",
    )
    add = parser.add_argument
    add("--model", choices=("llama", "cnn"), default="llama")
    add("--num-layers", type=int, default=2)
    add(
        "--layout",
        choices=[layout.value for layout in Layout],
        default=Layout.DDP.value,
        help="what the processes divide among themselves",
    )
    add("--reduce-dtype", choices=("float32", "bfloat16"), default="float32")
    add("--micro-batch-size", type=int, default=2)
    add("--global-batch-size", type=int, default=8)
    add("--seq-length", type=int, default=16)
    add("--documents", action="store_true", help="several in each sample")
    add("--uneven-lengths", action="store_true", help="not every token counts")
    add("--train-iters", type=int, default=2)
    add("--optimizer", choices=("sgd", "adamw", "muon"), default="sgd")
    add("--lr", type=float, default=1e-1)
    add("--warmup", type=int, default=0, help="steps of growing learning rate")
    add("--weight-decay", type=float, default=0.0)
    add("--max-grad-norm", type=float, default=0.0, help="0 for no clipping")
    add("--loss-scale", type=float, default=0.0, help="0 for no GradScaler")
    add("--tied", action="store_true", help="the head is the embedding")
    add("--lora", action="store_true", help="adapters on q and v; the rest is frozen")
    add("--dropout", type=float, default=0.0)
    add("--recompute", action="store_true", help="checkpoint activations")
    add("--ema", action="store_true", help="keep an average of the parameters")
    add("--evaluate", action="store_true", help="after every step")
    add("--seed", type=int, default=0, help="of the parameters and of the tokens")
    add(
        "--patch",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.py",
        help="functions of this file are called while the run is built: "
        "before_build(args), after_build(args, models), "
        "after_wrap(args, place, models, optimizer); and after_training(args, models)",
    )
    return parser.parse_args(argv)


def num_microbatches(args: argparse.Namespace, data_size: int) -> int:
    """Micro-batches of one rank in one step.

    Args:
        args: The command line.
        data_size: Number of ranks that have micro-batches of their own.

    Raises:
        UsageError: They cannot divide the samples evenly.
    """
    at_once = args.micro_batch_size * data_size
    if args.global_batch_size < 1 or args.global_batch_size % at_once:
        raise UsageError(
            "the samples of a step cannot be divided evenly",
            where=f"--global-batch-size of --layout {args.layout}",
            expected=f"a multiple of {at_once}",
            got=args.global_batch_size,
            remedy="change it, --micro-batch-size, or the number of processes",
        )
    return args.global_batch_size // at_once
