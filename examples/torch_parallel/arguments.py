"""Command line of the example, and its checks; options as in the Megatron example."""

import argparse
from collections.abc import Sequence

from ttrace.errors import UsageError
from ttrace.examples.script_options import add_patch_option
from ttrace.examples.torch_parallel.place import Parallelism, Place


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse itself ends the process on a syntax error."""
    parser = argparse.ArgumentParser(
        prog="python -m ttrace.examples.torch_parallel.train",
        description="Trains a small GPT in plain torch, with parallelism by hand",
    )
    add = parser.add_argument
    add("--num-layers", type=int, default=2)
    add("--hidden-size", type=int, default=32)
    add("--num-attention-heads", type=int, default=4)
    add("--seq-length", type=int, default=16)
    add("--vocab-size", type=int, default=64)
    add(
        "--parallelism",
        choices=[parallelism.value for parallelism in Parallelism],
        default=Parallelism.DATA.value,
        help="what the processes divide among themselves",
    )
    add("--micro-batch-size", type=int, default=2)
    add("--global-batch-size", type=int, default=8)
    add(
        "--uneven-lengths",
        action="store_true",
        help="samples of different lengths: not every token counts",
    )
    add("--train-iters", type=int, default=2)
    add("--lr", type=float, default=1e-1)
    add("--seed", type=int, default=0, help="of the parameters and of the tokens")
    add_patch_option(parser)
    return parser.parse_args(argv)


def require_divisible(args: argparse.Namespace, place: Place) -> None:
    """Checks that the processes can divide the work evenly.

    Raises:
        UsageError: They cannot.
    """
    size = place.size
    required = [
        ("--hidden-size", args.hidden_size, args.num_attention_heads),
        (
            "--global-batch-size",
            args.global_batch_size,
            args.micro_batch_size * place.data_size,
        ),
    ]
    match place.parallelism:
        case Parallelism.ULYSSES | Parallelism.TENSOR:
            required.append(("--num-attention-heads", args.num_attention_heads, size))
            required.append(("--seq-length", args.seq_length, size))
        case Parallelism.RING:
            required.append(("--seq-length", args.seq_length, size))
        case Parallelism.PIPELINE:
            required.append(("--num-layers", args.num_layers, size))
    for option, value, divisor in required:
        if value < 1 or value % divisor:
            raise UsageError(
                "the work cannot be divided evenly",
                where=f"{option} of --parallelism {place.parallelism}, "
                f"{size} processes",
                expected=f"a multiple of {divisor}",
                got=value,
                remedy="change it, or the number of processes",
            )
