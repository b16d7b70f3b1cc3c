"""Command line of both scripts."""

import argparse
from collections.abc import Sequence

from ttrace.examples.script_options import add_patch_option

MODELS = ("gpt2", "llama", "mixtral")
LAYOUTS = ("ddp", "fsdp2")


def parse_arguments(program: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; argparse itself ends the process on a syntax error.

    Args:
        program: Name of the script's module.
        argv: Options; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description="Trains a small model of transformers, on one process or several",
    )
    add = parser.add_argument
    add("--model", choices=MODELS, default="llama")
    add(
        "--layout",
        choices=LAYOUTS,
        default="ddp",
        help="what several processes do with the model; one process has it whole",
    )
    add("--micro-batch-size", type=int, default=2, help="samples of one forward")
    add("--global-batch-size", type=int, default=8, help="samples of one step")
    add("--seq-length", type=int, default=16)
    add(
        "--uneven-lengths",
        action="store_true",
        help="samples of different lengths: not every token counts",
    )
    add("--train-iters", type=int, default=2)
    add("--optimizer", choices=("adamw", "sgd"), default="adamw")
    add("--lr", type=float, default=1e-2)
    add("--warmup", type=int, default=0, help="steps of growing learning rate")
    add("--max-grad-norm", type=float, default=1.0, help="0 for no clipping")
    add("--bf16", action="store_true", help="autocast to bfloat16")
    add("--recompute", action="store_true", help="checkpoint activations")
    add("--evaluate", action="store_true", help="after every step")
    add("--seed", type=int, default=0, help="of the parameters and of the tokens")
    add_patch_option(parser, hooks=("before_build", "after_build", "after_training"))
    return parser.parse_args(argv)
