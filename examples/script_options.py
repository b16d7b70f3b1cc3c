"""What the command lines of several examples have in common."""

import argparse
from pathlib import Path

from ttrace.errors import UsageError
from ttrace.examples.patches import HOOKS


def add_patch_option(
    parser: argparse._ActionsContainer, *, hooks: tuple[str, ...] = tuple(HOOKS)
) -> None:
    """``--patch FILE.py``, which may be given several times.

    Args:
        parser: Of the example, or a group of it.
        hooks: Names of the functions of a patch that the example calls.
    """
    parser.add_argument(
        "--patch",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.py",
        help="may be given several times; functions of this file are called while the "
        f"run is built: {', '.join(HOOKS[hook] for hook in hooks)}",
    )


def num_microbatches(args: argparse.Namespace, data_size: int) -> int:
    """Micro-batches of one rank in one step.

    Args:
        args: The command line, with ``global_batch_size`` and ``micro_batch_size``.
        data_size: Number of ranks that have micro-batches of their own.

    Raises:
        UsageError: They cannot divide the samples evenly.
    """
    at_once = args.micro_batch_size * data_size
    if args.global_batch_size < 1 or args.global_batch_size % at_once:
        raise UsageError(
            "the samples of a step cannot be divided evenly",
            where=f"--global-batch-size, {data_size} shares of the samples",
            expected=f"a multiple of {at_once}",
            got=args.global_batch_size,
            remedy="change it, --micro-batch-size, or the number of processes",
        )
    return args.global_batch_size // at_once
