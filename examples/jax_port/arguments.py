"""Command lines of the two scripts: what they share, and what only JAX has."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ttrace.errors import UsageError
from ttrace.examples.jax_port.config import Architecture, ModelConfig, small_config
from ttrace.examples.jax_port.layout import Flavor, Layout, MeshShape, parse_mesh
from ttrace.examples.script_options import add_patch_option


def parse_torch_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line of the reference in PyTorch."""
    parser = argparse.ArgumentParser(
        prog="python -m ttrace.examples.jax_port.torch_train",
        description="Trains a small GPT-2 or Llama of transformers",
    )
    _add_common(parser)
    return parser.parse_args(argv)


def parse_jax_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line of the port to JAX."""
    parser = argparse.ArgumentParser(
        prog="python -m ttrace.examples.jax_port.jax_train",
        description="Trains a port of the same model to flax",
    )
    _add_common(parser)
    add = parser.add_argument
    add(
        "--flavor",
        choices=[flavor.value for flavor in Flavor],
        default=Flavor.LINEN.value,
        help="the half of flax that the port is written in",
    )
    add(
        "--layout",
        choices=[layout.value for layout in Layout],
        default=Layout.DP_TP.value,
        help="how parameters and batch lie on the devices",
    )
    add(
        "--mesh",
        type=parse_mesh,
        default=MeshShape(data=1, model=1),
        metavar="DATAxMODEL",
        help="devices for the batch times devices for the parameters, e.g. 2x4",
    )
    add("--dropout", type=float, default=0.0, help="rate after the token embedding")
    add(
        "--clip-grad",
        type=float,
        default=0.0,
        help="largest norm of all gradients together; 0 for any",
    )
    add(
        "--initial-map",
        type=Path,
        metavar="FILE.toml",
        help="a map file whose reference is ttrace.examples.megatron_gpt: the port "
        "starts from the parameters of that model, and not of transformers'",
    )
    return parser.parse_args(argv)


def model_config(args: argparse.Namespace) -> ModelConfig:
    """The model that a command line asks for."""
    return small_config(
        Architecture(args.model),
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        num_heads=args.num_attention_heads,
        vocab_size=args.vocab_size,
        seq_length=args.seq_length,
        dropout=getattr(args, "dropout", 0.0),
        stacked=getattr(args, "layout", None) == Layout.SCAN_REMAT,
    )


def require_divisible(args: argparse.Namespace, shape: MeshShape) -> None:
    """Checks that the devices can divide the work evenly.

    Raises:
        UsageError: They cannot.
    """
    config = model_config(args)
    data = shape.data
    heads = shape.model
    if args.layout == Layout.FSDP:
        data, heads = shape.size, 1
    for option, value, divisor in (
        ("--global-batch-size", args.global_batch_size, data * args.num_microbatches),
        ("--num-attention-heads", config.num_kv_heads, heads),
        ("--vocab-size", config.vocab_size, shape.model),
        ("--hidden-size", config.hidden_size, shape.model),
    ):
        if value < 1 or value % divisor:
            raise UsageError(
                "the work cannot be divided evenly",
                where=f"{option} of --layout {args.layout}, --mesh {shape}",
                expected=f"a multiple of {divisor}",
                got=value,
                remedy="change it, or the mesh",
            )


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        choices=[architecture.value for architecture in Architecture],
        default=Architecture.GPT2.value,
    )
    add("--num-layers", type=int, default=2)
    add("--hidden-size", type=int, default=64)
    add("--num-attention-heads", type=int, default=8)
    add("--vocab-size", type=int, default=128)
    add("--seq-length", type=int, default=16)
    add("--global-batch-size", type=int, default=8)
    add(
        "--num-microbatches",
        type=int,
        default=1,
        help="gradients of so many parts of the batch are accumulated",
    )
    add(
        "--uneven-lengths",
        action="store_true",
        help="samples of different lengths: padding is masked and does not count",
    )
    add("--train-iters", "--steps", type=int, default=2)
    add("--lr", type=float, default=1e-2)
    add("--weight-decay", type=float, default=0.1)
    add("--adam-beta2", type=float, default=0.95)
    add("--adam-eps", type=float, default=1e-8)
    add("--seed", type=int, default=0, help="of the parameters and of the tokens")
    add_patch_option(parser, hooks=("before_build", "after_build"))
