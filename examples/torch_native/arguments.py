"""Command line of the example, and what does not go together."""

import argparse
from collections.abc import Sequence

from ttrace.errors import UsageError
from ttrace.examples.script_options import add_patch_option, num_microbatches
from ttrace.examples.torch_native.place import Place

MODELS = (
    *("llama", "cnn", "lstm", "unet"),
    *("hf-gpt2", "hf-llama", "hf-mixtral", "hf-qwen-moe", "hf-bert", "hf-vit", "hf-t5"),
    "hf-gpt2-124m",
)
DATA_PARALLEL = ("ddp", "fsdp1", "fsdp1-flat", "fsdp2", "hsdp", "sum")
SCHEDULES = ("GPipe", "1F1B")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse itself ends the process on a syntax error."""
    parser = argparse.ArgumentParser(
        prog="python -m ttrace.examples.torch_native.train",
        description="Trains a small model with the parallelism that torch brings along",
    )
    parser.add_argument("--model", choices=MODELS, default="llama")
    model = parser.add_argument_group("llama")
    model.add_argument("--num-layers", type=int, default=2)
    model.add_argument("--num-kv-heads", type=int, default=4, help="4 query heads")
    model.add_argument("--tie-embeddings", action="store_true")
    model.add_argument("--bias", action="store_true", help="of linears, but the head")
    model.add_argument(
        "--lora",
        action="store_true",
        help="adapters on query and value; the rest is frozen",
    )
    model.add_argument("--dropout", type=float, default=0.0)
    model.add_argument("--seq-length", type=int, default=16)
    model.add_argument(
        "--documents", action="store_true", help="several in each sample"
    )
    model.add_argument(
        "--uneven-lengths", action="store_true", help="not every token counts"
    )
    layout = parser.add_argument_group("layout")
    layout.add_argument(
        "--dp",
        choices=DATA_PARALLEL,
        default="ddp",
        help="what the ranks do that --tp and --pp leave over; one process has the "
        "whole model, unless --precision mixed is asked for; under sum the script adds "
        "the gradients up itself",
    )
    layout.add_argument("--tp", type=int, default=1, help="ranks that share a layer")
    layout.add_argument("--sp", action="store_true", help="and the sequence between")
    layout.add_argument(
        "--loss-parallel", action="store_true", help="and the classes of the loss"
    )
    layout.add_argument("--pp", type=int, default=1, help="stages of a pipeline")
    layout.add_argument("--schedule", choices=SCHEDULES, default="1F1B")
    layout.add_argument(
        "--reduce-once",
        action="store_true",
        help="gradients are reduced after the last micro-batch only",
    )
    layout.add_argument(
        "--reduce-dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of FSDP",
    )
    layout.add_argument(
        "--sync-batch-norm", action="store_true", help="over the samples of all ranks"
    )
    layout.add_argument("--compile", metavar="BACKEND", help="e.g. inductor, aot_eager")
    layout.add_argument(
        "--compile-blocks", action="store_true", help="each layer, not the whole model"
    )
    layout.add_argument(
        "--checkpoint",
        choices=("none", "reentrant", "wrapper"),
        default="none",
        help="recompute activations: by torch.utils.checkpoint, or in wrappers",
    )
    layout.add_argument(
        "--precision",
        choices=("fp32", "autocast", "mixed"),
        default="fp32",
        help="autocast to bfloat16, or FSDP's mixed precision",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--micro-batch-size", type=int, default=2)
    training.add_argument("--global-batch-size", type=int, default=8)
    training.add_argument(
        "--deal",
        choices=("batches", "samples"),
        default="batches",
        help="to the ranks in turn; torch's DistributedSampler deals samples",
    )
    training.add_argument("--shuffle", action="store_true")
    training.add_argument("--train-iters", type=int, default=2)
    training.add_argument(
        "--loss-per",
        choices=("microbatch", "step"),
        default="microbatch",
        help="mean over a micro-batch, or over all labels of the step that count",
    )
    training.add_argument(
        "--optimizer", choices=("adamw", "sgd", "muon"), default="adamw"
    )
    training.add_argument("--lr", type=float, default=1e-2)
    training.add_argument(
        "--warmup", type=int, default=0, help="steps of growing learning rate"
    )
    training.add_argument("--weight-decay", type=float, default=0.01)
    training.add_argument(
        "--decay-matrices-only", action="store_true", help="not norms and biases"
    )
    training.add_argument(
        "--max-grad-norm", type=float, default=0.0, help="0 for no clipping"
    )
    training.add_argument(
        "--loss-scale", type=float, default=0.0, help="0 for no GradScaler"
    )
    training.add_argument(
        "--ema", action="store_true", help="keep an average of the parameters"
    )
    training.add_argument("--evaluate", action="store_true", help="after every step")
    training.add_argument("--seed", type=int, default=0)
    add_patch_option(parser)
    return parser.parse_args(argv)


def require_consistent(args: argparse.Namespace, place: Place) -> None:
    """Checks that the options go together, and that the samples can be divided.

    Raises:
        UsageError: They do not, or cannot.
    """
    is_llama = args.model == "llama"
    has_labels = args.model in ("llama", "cnn", "lstm")
    for is_wrong, where, expected in (
        (
            not is_llama and (args.tp > 1 or args.pp > 1),
            f"--model {args.model}",
            "--tp 1 and --pp 1: only the Llama of this example says how it is cut",
        ),
        (
            args.pp > 1 and (args.tie_embeddings or bool(args.max_grad_norm)),
            "--pp",
            "no --tie-embeddings, and no --max-grad-norm: both need all stages",
        ),
        (
            args.pp > 1 and (args.documents or args.evaluate),
            "--pp",
            "no --documents, and no --evaluate: a stage is given tokens only",
        ),
        (args.sp and args.tp == 1, "--sp", "--tp 2 or more"),
        (args.loss_parallel and args.tp == 1, "--loss-parallel", "--tp 2 or more"),
        (args.lora and args.tp > 1, "--lora", "--tp 1: no style shards adapters"),
        (
            bool(args.max_grad_norm) and args.tp > 1 and not args.sp,
            "--max-grad-norm",
            "--sp, which makes every parameter one of the tp mesh",
        ),
        (
            args.precision == "mixed" and args.dp == "ddp",
            "--precision mixed",
            "--dp fsdp1, fsdp2 or hsdp",
        ),
        (
            args.dp.startswith("fsdp1") and args.tp > 1,
            f"--dp {args.dp}",
            "--tp 1; fsdp2 goes with --tp",
        ),
        (
            args.dp.startswith("fsdp1") and args.decay_matrices_only,
            f"--dp {args.dp}",
            "no --decay-matrices-only: its parameters are all flat",
        ),
        (args.dp == "ddp" and place.dp_size > 1 and args.tp > 1, "--tp", "--dp fsdp2"),
        (
            args.dp == "sum" and args.loss_per != "step",
            "--dp sum",
            "--loss-per step: a sum is no mean",
        ),
        (
            args.loss_per == "step" and not has_labels,
            "--loss-per step",
            "--model llama, cnn or lstm, whose labels are counted",
        ),
    ):
        if is_wrong:
            raise UsageError(
                "these options do not go together",
                where=where,
                expected=expected,
                remedy="change one of them",
            )
    num_microbatches(args, place.dp_size)
