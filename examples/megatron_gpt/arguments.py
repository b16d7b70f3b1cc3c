"""Command line of the example, with Megatron-LM's own option names, and its checks."""

import argparse
import importlib.util
from collections.abc import Sequence

from ttrace.errors import UsageError
from ttrace.examples.megatron_gpt.architecture_options import (
    add_architecture_options,
    check_architecture,
)
from ttrace.examples.megatron_gpt.pipeline_options import (
    add_pipeline_options,
    check_interleaving,
    resolve_pipeline_options,
)
from ttrace.examples.script_options import add_patch_option


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse itself ends the process on a syntax error."""
    parser = argparse.ArgumentParser(
        prog="python -m ttrace.examples.megatron_gpt.train",
        description="Trains a small GPT on megatron-core; without CUDA on CPU and gloo",
    )
    _add_model(parser.add_argument_group("model"))
    add_architecture_options(parser.add_argument_group("attention, experts, masks"))
    _add_parallelism(parser.add_argument_group("parallelism"))
    _add_data_parallelism(parser.add_argument_group("data parallelism"))
    add_pipeline_options(parser.add_argument_group("pipeline, context and loss"))
    _add_training(parser.add_argument_group("training"))
    return parser.parse_args(argv)


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--num-layers", type=int, default=2)
    add("--hidden-size", type=int, default=64)
    add("--num-attention-heads", type=int, default=4)
    add("--num-query-groups", type=int, help="as many as heads if not given")
    add("--ffn-hidden-size", type=int, help="4 times the hidden size if not given")
    add("--seq-length", type=int, default=32)
    add("--vocab-size", type=int, default=128)
    add(
        "--make-vocab-size-divisible-by",
        type=int,
        default=1,
        help="rows are added to the embedding until this divides them; give the same "
        "number to runs that are to be compared",
    )
    add("--swiglu", action="store_true")
    add("--openai-gelu", action="store_true", help="GELU's approximation by tanh")
    add("--normalization", choices=("LayerNorm", "RMSNorm"), default="LayerNorm")
    add("--norm-epsilon", type=float, default=1e-5)
    add("--qk-layernorm", action="store_true")
    add(
        "--position-embedding-type",
        choices=("learned_absolute", "rope"),
        default="learned_absolute",
    )
    add("--untie-embeddings-and-output-weights", action="store_true")
    add("--disable-bias-linear", action="store_true")
    add("--hidden-dropout", type=float, default=0.0)
    add("--attention-dropout", type=float, default=0.0)
    add("--num-experts", type=int, help="a mixture of experts in every layer")
    add("--moe-router-topk", type=int, default=2)
    add("--moe-aux-loss-coeff", type=float, default=0.0)
    add(
        "--moe-token-dispatcher-type",
        choices=("alltoall", "allgather"),
        default="alltoall",
    )


def _add_parallelism(group: argparse._ArgumentGroup) -> None:
    # What the sizes leave of the world size is data parallelism.
    add = group.add_argument
    add("--tensor-model-parallel-size", type=int, default=1)
    add("--sequence-parallel", action="store_true")
    add("--expert-model-parallel-size", type=int, default=1)
    add(
        "--expert-tensor-parallel-size",
        type=int,
        help="the tensor parallel size if not given",
    )


def _add_data_parallelism(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--use-distributed-optimizer", action="store_true")
    add("--overlap-grad-reduce", action="store_true")
    add("--overlap-param-gather", action="store_true")
    add(
        "--ddp-bucket-size",
        type=int,
        help="in elements; buckets are cut only with --overlap-grad-reduce",
    )
    add(
        "--num-distributed-optimizer-instances",
        type=int,
        default=1,
        help="groups of data-parallel ranks that each cut the optimizer's state among "
        "themselves",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--micro-batch-size", type=int, default=2)
    add("--global-batch-size", type=int, default=8)
    add("--train-iters", type=int, default=2)
    add("--optimizer", choices=("adam", "sgd"), default="adam")
    add("--lr", type=float, default=1e-2)
    add("--min-lr", type=float, help="of the last step; --lr if not given")
    add("--weight-decay", type=float, default=0.01)
    add("--adam-beta1", type=float, default=0.9)
    add("--adam-beta2", type=float, default=0.999)
    add("--adam-eps", type=float, default=1e-8)
    add("--clip-grad", type=float, default=1.0)
    add("--bf16", action="store_true")
    add("--fp16", action="store_true")
    add("--loss-scale", type=float, help="constant; dynamic in fp16 if not given")
    add("--initial-loss-scale", type=float, default=2.0**32)
    add("--loss-scale-window", type=int, default=1000)
    add("--hysteresis", type=int, default=2)
    add("--recompute-granularity", choices=("full", "selective"))
    add("--recompute-method", choices=("uniform", "block"))
    add("--recompute-num-layers", type=int)
    add("--recompute-modules", nargs="+", metavar="MODULE")
    add("--seed", type=int, default=0, help="of the parameters and of the tokens")
    add_patch_option(group)


def resolve_arguments(args: argparse.Namespace, world_size: int) -> None:
    """Fills in what follows from other options, and checks that all fit together.

    Adds ``data_parallel_size``, ``num_microbatches``, ``padded_vocab_size`` and
    ``virtual_pipeline_model_parallel_size``.

    Args:
        args: Parsed options; changed in place.
        world_size: Number of processes of the run.

    Raises:
        UsageError: Two options contradict each other, or the number of processes.
    """
    _require_positive(args)
    if args.num_query_groups is None:
        args.num_query_groups = args.num_attention_heads
    if args.ffn_hidden_size is None:
        args.ffn_hidden_size = 4 * args.hidden_size
    if args.expert_tensor_parallel_size is None:
        args.expert_tensor_parallel_size = args.tensor_model_parallel_size
    divisor = args.make_vocab_size_divisible_by
    args.padded_vocab_size = -(-args.vocab_size // divisor) * divisor
    _check_parallelism(args, world_size)
    resolve_pipeline_options(args)
    args.data_parallel_size = world_size // _model_parallel_size(args)
    _check_batches(args)
    args.num_microbatches = args.global_batch_size // (
        args.micro_batch_size * args.data_parallel_size
    )
    check_interleaving(args)
    if args.num_experts is not None:
        _check_experts(args, world_size)
    elif args.expert_model_parallel_size > 1:
        raise UsageError(
            "expert parallelism without experts",
            where=f"--expert-model-parallel-size {args.expert_model_parallel_size}",
            remedy="give --num-experts, or leave the option out",
        )
    if args.swiglu and args.openai_gelu:
        raise UsageError(
            "an MLP has one activation function",
            where="--swiglu, --openai-gelu",
            remedy="leave one of them out",
        )
    check_architecture(args)
    _check_recompute(args)
    _check_optimizer(args)
    _check_optimizer_instances(args, world_size)


def _require_positive(args: argparse.Namespace) -> None:
    may_be_zero = (
        *("seed", "clip_grad", "train_iters", "lr", "min_lr", "weight_decay"),
        *("hidden_dropout", "attention_dropout", "moe_aux_loss_coeff"),
        *("adam_beta1", "adam_beta2", "adam_eps"),
        *("padding", "dsa_indexer_loss_coeff", "moe_z_loss_coeff"),
    )
    for name, value in vars(args).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if value < 0 or (value == 0 and name not in may_be_zero):
            smallest = "1 or more" if isinstance(value, int) else "more than 0"
            raise UsageError(
                "an option is out of range",
                where=_option(name),
                expected="0 or more" if name in may_be_zero else smallest,
                got=value,
                remedy="correct the number",
            )


def _model_parallel_size(args: argparse.Namespace) -> int:
    return (
        args.tensor_model_parallel_size
        * args.pipeline_model_parallel_size
        * args.context_parallel_size
    )


def _check_parallelism(args: argparse.Namespace, world_size: int) -> None:
    tensor = args.tensor_model_parallel_size
    by = f"--tensor-model-parallel-size {tensor}"
    size = _model_parallel_size(args)
    if world_size % size:
        raise UsageError(
            "the number of processes is not divisible by the parallel sizes",
            where=f"{by}, --pipeline-model-parallel-size "
            f"{args.pipeline_model_parallel_size}, --context-parallel-size "
            f"{args.context_parallel_size}",
            expected=f"a multiple of {size} processes",
            got=world_size,
            remedy=f"start it by torchrun --nproc-per-node {size}, or change them",
        )
    _require_multiple(args, "hidden_size", args.num_attention_heads, "attention heads")
    _require_multiple(
        args, "num_attention_heads", args.num_query_groups, "--num-query-groups"
    )
    _require_multiple(args, "num_attention_heads", tensor, by)
    if tensor % args.num_query_groups:  # several ranks may share a group
        _require_multiple(args, "num_query_groups", tensor, by)
    _require_multiple(args, "ffn_hidden_size", tensor, by)
    _require_multiple(args, "padded_vocab_size", tensor, by)
    if args.sequence_parallel:
        _require_multiple(args, "seq_length", tensor, by)


def _check_batches(args: argparse.Namespace) -> None:
    num_samples = args.micro_batch_size * args.data_parallel_size
    _require_multiple(
        args,
        "global_batch_size",
        num_samples,
        f"micro-batch size {args.micro_batch_size} x data-parallel size "
        f"{args.data_parallel_size}",
    )


def _check_experts(args: argparse.Namespace, world_size: int) -> None:
    expert, tensor = args.expert_model_parallel_size, args.expert_tensor_parallel_size
    num_stages = args.pipeline_model_parallel_size
    if world_size % (expert * tensor * num_stages):
        raise UsageError(
            "the number of processes is not divisible by the parallel sizes of experts",
            where=f"--expert-model-parallel-size {expert}, "
            f"--expert-tensor-parallel-size {tensor}",
            expected=f"a multiple of {expert * tensor * num_stages} processes",
            got=world_size,
            remedy="change the sizes, or the number of processes",
        )
    _require_multiple(
        args, "num_experts", expert, f"--expert-model-parallel-size {expert}"
    )
    _require_multiple(
        args, "hidden_size", tensor, f"--expert-tensor-parallel-size {tensor}"
    )
    if args.moe_router_topk > args.num_experts:
        raise UsageError(
            "a token cannot go to more experts than there are",
            where="--moe-router-topk",
            expected=f"1..{args.num_experts}",
            got=args.moe_router_topk,
            remedy="lower it, or raise --num-experts",
        )
    if args.tensor_model_parallel_size > 1 and not args.sequence_parallel:
        raise UsageError(
            "Megatron trains experts under tensor parallelism only with sequence "
            "parallelism",
            where="--num-experts, --tensor-model-parallel-size",
            remedy="add --sequence-parallel",
        )
    if not args.disable_bias_linear:
        # Megatron adds those of local experts in place to a view: autograd refuses.
        raise UsageError(
            "experts cannot have biases",
            where="--num-experts",
            remedy="add --disable-bias-linear",
        )


def _check_recompute(args: argparse.Namespace) -> None:
    if args.recompute_granularity == "full" and (
        args.recompute_method is None or args.recompute_num_layers is None
    ):
        raise UsageError(
            "full recomputation needs to know which layers",
            where="--recompute-granularity full",
            remedy="add --recompute-method uniform --recompute-num-layers 1",
        )
    if args.recompute_granularity != "selective" and args.recompute_modules:
        raise UsageError(
            "modules are chosen in selective recomputation only",
            where="--recompute-modules",
            remedy="add --recompute-granularity selective, or leave it out",
        )
    if args.recompute_granularity != "full" and (
        args.recompute_method is not None or args.recompute_num_layers is not None
    ):
        raise UsageError(
            "a method and a number of layers belong to full recomputation",
            where="--recompute-method, --recompute-num-layers",
            remedy="add --recompute-granularity full, or leave them out",
        )


def _check_optimizer(args: argparse.Namespace) -> None:
    if args.bf16 and args.fp16:
        raise UsageError(
            "a model has one precision",
            where="--bf16, --fp16",
            remedy="leave one of them out",
        )
    for name in ("adam_beta1", "adam_beta2"):
        if getattr(args, name) >= 1:
            raise UsageError(
                "a decay rate of a mean is below 1",
                where=_option(name),
                expected="0 or more, and less than 1",
                got=getattr(args, name),
                remedy="correct the number",
            )
    if args.min_lr is not None and args.min_lr > args.lr:
        raise UsageError(
            "the learning rate cannot rise",
            where="--min-lr",
            expected=f"0..{args.lr}, which is --lr",
            got=args.min_lr,
            remedy="lower it, or raise --lr",
        )
    if args.use_distributed_optimizer and args.optimizer != "adam":
        raise UsageError(
            "Megatron's distributed optimizer only works with Adam",
            where=f"--use-distributed-optimizer, --optimizer {args.optimizer}",
            remedy="leave one of them out",
        )
    if args.overlap_param_gather and not (
        args.use_distributed_optimizer and args.overlap_grad_reduce
    ):
        raise UsageError(
            "only a distributed optimizer gathers parameters, and Megatron overlaps "
            "that only together with the reduction of the gradients",
            where="--overlap-param-gather",
            remedy="add --use-distributed-optimizer --overlap-grad-reduce",
        )


def _check_optimizer_instances(args: argparse.Namespace, world_size: int) -> None:
    num_instances = args.num_distributed_optimizer_instances
    if num_instances == 1:
        return
    where = f"--num-distributed-optimizer-instances {num_instances}"
    if not args.use_distributed_optimizer:
        raise UsageError(
            "only a distributed optimizer has instances",
            where=where,
            remedy="add --use-distributed-optimizer, or leave it out",
        )
    if importlib.util.find_spec("einops") is None:
        raise UsageError(
            "Megatron makes the groups of several optimizer instances with einops, "
            "which is not installed",
            where=where,
            remedy="pip install einops, or leave the option out",
        )
    num_sharing = {"data": args.data_parallel_size * args.context_parallel_size}
    if args.num_experts is not None:
        size = args.expert_model_parallel_size * args.expert_tensor_parallel_size
        num_sharing["expert data"] = world_size // (
            size * args.pipeline_model_parallel_size
        )
    for what, number in num_sharing.items():
        if number % num_instances:
            raise UsageError(
                f"the {what} parallel ranks cannot be divided among the instances of "
                "the distributed optimizer",
                where=where,
                expected=f"a divisor of {number}",
                got=num_instances,
                remedy="change the number of instances, or of processes",
            )


def _require_multiple(
    args: argparse.Namespace, name: str, divisor: int, what: str
) -> None:
    value = getattr(args, name)
    if value % divisor:
        raise UsageError(
            f"{_option(name)} is not divisible by {what}",
            where=_option(name),
            expected=f"a multiple of {divisor}",
            got=value,
            remedy="change one of the two",
        )


def _option(name: str) -> str:
    if name == "padded_vocab_size":
        return "--vocab-size (padded by --make-vocab-size-divisible-by)"
    return "--" + name.replace("_", "-")
