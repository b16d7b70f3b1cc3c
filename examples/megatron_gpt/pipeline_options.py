"""Options of pipeline and context parallelism and of the loss, and their checks."""

import argparse

from ttrace.errors import UsageError

LOSS_MASKS = ("none", "even", "uneven")
"""All tokens count; every other one; or all but the first few of each sample."""


def add_pipeline_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options, under Megatron-LM's own names where it has one."""
    add = group.add_argument
    add("--pipeline-model-parallel-size", type=int, default=1)
    add(
        "--num-layers-per-virtual-pipeline-stage",
        type=int,
        help="several model chunks per rank, and the interleaved schedule",
    )
    add("--decoder-first-pipeline-num-layers", type=int)
    add("--decoder-last-pipeline-num-layers", type=int)
    add(
        "--overlap-p2p-communication",
        action="store_true",
        help="in the interleaved schedule",
    )
    add("--context-parallel-size", type=int, default=1)
    add("--mtp-num-layers", type=int, help="layers of multi-token prediction")
    add("--calculate-per-token-loss", action="store_true")
    add("--loss-mask", choices=LOSS_MASKS, default="none")


def resolve_pipeline_options(args: argparse.Namespace) -> None:
    """Checks the options and adds ``virtual_pipeline_model_parallel_size``.

    Raises:
        UsageError: Two options contradict each other.
    """
    _check_context(args)
    _check_mtp(args)
    args.virtual_pipeline_model_parallel_size = None
    _check_stages(args)


def check_interleaving(args: argparse.Namespace) -> None:
    """Checks what also depends on the number of micro-batches.

    Raises:
        UsageError: The interleaved schedule cannot run as many.
    """
    num_stages = args.pipeline_model_parallel_size
    if args.virtual_pipeline_model_parallel_size is None:
        return
    if args.num_microbatches % num_stages:
        raise UsageError(
            "the interleaved schedule takes micro-batches in rounds, one per stage",
            where=f"--global-batch-size {args.global_batch_size}",
            expected=f"a multiple of {num_stages} micro-batches per rank",
            got=args.num_microbatches,
            remedy="change --global-batch-size or --micro-batch-size",
        )


def _check_context(args: argparse.Namespace) -> None:
    parts = 2 * args.context_parallel_size
    if args.sequence_parallel:
        parts *= args.tensor_model_parallel_size
    if args.context_parallel_size > 1 and args.seq_length % parts:
        raise UsageError(
            "the sequence cannot be cut in zig-zag order",
            where=f"--seq-length, --context-parallel-size {args.context_parallel_size}",
            expected=f"a multiple of {parts}",
            got=args.seq_length,
            remedy="change one of them",
        )


def _check_mtp(args: argparse.Namespace) -> None:
    if args.mtp_num_layers and args.position_embedding_type != "rope":
        # The last stage copies them, and nothing keeps the copies equal.
        raise UsageError(
            "Megatron does not synchronize learned positions for multi-token "
            "prediction",
            where="--mtp-num-layers",
            remedy="add --position-embedding-type rope",
        )


def _check_stages(args: argparse.Namespace) -> None:
    num_stages = args.pipeline_model_parallel_size
    first, last = (
        args.decoder_first_pipeline_num_layers,
        args.decoder_last_pipeline_num_layers,
    )
    per_chunk = args.num_layers_per_virtual_pipeline_stage
    if num_stages == 1:
        for name in (
            "num_layers_per_virtual_pipeline_stage",
            "decoder_first_pipeline_num_layers",
            "decoder_last_pipeline_num_layers",
        ):
            if getattr(args, name) is not None:
                raise UsageError(
                    "an option of pipelines without a pipeline",
                    where="--" + name.replace("_", "-"),
                    remedy="add --pipeline-model-parallel-size, or leave it out",
                )
    if args.overlap_p2p_communication and per_chunk is None:
        raise UsageError(
            "only the interleaved schedule overlaps its communication",
            where="--overlap-p2p-communication",
            remedy="add --num-layers-per-virtual-pipeline-stage, or leave it out",
        )
    if per_chunk is not None and num_stages == 2 and not args.overlap_p2p_communication:
        # As Megatron-LM refuses it too: the messages of a batch are matched by their
        # order, and activations are taken for gradients.
        raise UsageError(
            "two stages exchange several messages per batch of communication",
            where="--pipeline-model-parallel-size 2, "
            "--num-layers-per-virtual-pipeline-stage",
            remedy="add --overlap-p2p-communication, or take more stages",
        )
    if per_chunk is not None and (first is not None or last is not None):
        raise UsageError(
            "stages of uneven size cannot be virtual ones in this example",
            where="--num-layers-per-virtual-pipeline-stage",
            remedy="leave --decoder-first-pipeline-num-layers and "
            "--decoder-last-pipeline-num-layers out",
        )
    uneven = [number for number in (first, last) if number is not None]
    inner = args.num_layers - sum(uneven)
    num_inner = num_stages - len(uneven)
    if inner < num_inner or (inner % num_inner if num_inner else inner):
        raise UsageError(
            "the layers cannot be divided among the stages",
            where=f"--pipeline-model-parallel-size {num_stages}",
            expected=f"for {num_inner} stages a multiple of {num_inner} layers",
            got=f"{inner} of {args.num_layers}",
            remedy="change --num-layers or the number of stages",
        )
    if per_chunk is not None:
        per_rank = args.num_layers // num_stages
        if per_rank % per_chunk or per_rank == per_chunk:
            raise UsageError(
                "the layers of a rank cannot be divided among several virtual stages",
                where=f"--num-layers-per-virtual-pipeline-stage {per_chunk}",
                expected=f"a divisor of {per_rank}, and smaller",
                got=per_chunk,
                remedy="change --num-layers or the number of stages",
            )
        args.virtual_pipeline_model_parallel_size = per_rank // per_chunk
