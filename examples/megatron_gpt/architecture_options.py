"""Options of attention variants, shared experts and masks, and their checks."""

import argparse
from typing import Any

from ttrace.errors import UsageError

LINEAR_ATTENTION = "gated_delta_net"
SPARSE_ATTENTION = "dsa"

_SMALL_MLA = {
    "q_lora_rank": 12,
    "kv_lora_rank": 12,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
}


def add_architecture_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options, under Megatron-LM's own names where it has one."""
    add = group.add_argument
    add("--multi-latent-attention", action="store_true")
    add("--q-lora-rank", type=int, default=_SMALL_MLA["q_lora_rank"])
    add(
        "--no-q-lora",
        action="store_true",
        help="queries come from the hidden states, not from a compressed tensor",
    )
    add("--kv-lora-rank", type=int, default=_SMALL_MLA["kv_lora_rank"])
    add("--qk-head-dim", type=int, default=_SMALL_MLA["qk_head_dim"])
    add("--qk-pos-emb-head-dim", type=int, default=_SMALL_MLA["qk_pos_emb_head_dim"])
    add("--rope-type", choices=("rope", "yarn"), default="rope")
    add("--mscale", type=float, default=1.0, help="of YaRN's rotary embedding")
    add(
        "--duplicated-down-projections",
        action="store_true",
        help="of multi-latent attention: every tensor-parallel rank has them whole, as "
        "TransformerEngine's are",
    )
    add(
        "--experimental-attention-variant",
        choices=(LINEAR_ATTENTION, SPARSE_ATTENTION),
    )
    add(
        "--linear-attention-freq",
        type=int,
        default=2,
        help="every nth layer keeps its softmax attention",
    )
    add("--linear-num-key-heads", type=int, default=2)
    add("--linear-num-value-heads", type=int, default=4)
    add("--dsa-indexer-topk", type=int, default=8)
    add("--dsa-indexer-loss-coeff", type=float, default=1.0)
    add(
        "--softmax-type",
        choices=("vanilla", "off-by-one", "learnable"),
        default="vanilla",
        help="other than vanilla: attention with sinks",
    )
    add("--window-size", type=int, help="attention sees so many tokens back")
    add("--attention-output-gate", action="store_true")
    add("--qk-l2-norm", action="store_true")
    add("--moe-shared-expert-intermediate-size", type=int)
    add("--moe-shared-expert-gate", action="store_true")
    add("--moe-shared-expert-overlap", action="store_true")
    add(
        "--moe-latent-size",
        type=int,
        help="routed experts work on tokens that are projected to so many features",
    )
    add("--moe-z-loss-coeff", type=float)
    add(
        "--moe-router-load-balancing-type",
        choices=("aux_loss", "seq_aux_loss", "global_aux_loss"),
        default="aux_loss",
    )
    add(
        "--moe-router-score-function",
        choices=("softmax", "sigmoid"),
        default="softmax",
    )
    add("--moe-router-enable-expert-bias", action="store_true")
    add(
        "--padding",
        type=int,
        default=0,
        help="the last so many tokens of a sample are padding: routers are told of it",
    )
    add(
        "--attention-mask",
        action="store_true",
        help="the model is given the causal mask as a tensor",
    )
    add(
        "--no-initialization",
        action="store_true",
        help="Megatron does not initialize the parameters, as when a checkpoint is "
        "loaded",
    )


def check_architecture(args: argparse.Namespace) -> None:
    """Checks the options against each other.

    Raises:
        UsageError: Two options contradict each other.
    """
    variant = args.experimental_attention_variant
    if args.context_parallel_size > 1 and variant is not None:
        raise UsageError(
            "Megatron cuts no sequence over context-parallel ranks in this attention",
            where=f"--experimental-attention-variant {variant}",
            remedy="leave --context-parallel-size out",
        )
    if variant == SPARSE_ATTENTION and not args.multi_latent_attention:
        raise UsageError(
            "sparse attention is a variant of multi-latent attention",
            where="--experimental-attention-variant dsa",
            remedy="add --multi-latent-attention",
        )
    if args.moe_shared_expert_overlap and not args.moe_shared_expert_intermediate_size:
        raise UsageError(
            "there are no shared experts to overlap",
            where="--moe-shared-expert-overlap",
            remedy="add --moe-shared-expert-intermediate-size",
        )
    if args.padding >= args.seq_length:
        raise UsageError(
            "all tokens are padding",
            where="--padding",
            expected=f"less than {args.seq_length}",
            got=args.padding,
            remedy="lower it",
        )


def architecture(args: argparse.Namespace) -> dict[str, Any]:
    """What Megatron's configuration is told of attention variants and shared experts.

    Args:
        args: Resolved options.
    """
    settings: dict[str, Any] = {
        "softmax_type": args.softmax_type,
        "perform_initialization": not args.no_initialization,
    }
    # Older releases do not know the names of what they cannot do.
    for name in ("attention_output_gate", "qk_l2_norm"):
        if getattr(args, name):
            settings[name] = True
    if args.window_size is not None:
        settings["window_size"] = (args.window_size, 0)
    if args.num_experts is not None:
        settings |= _experts(args)
    if args.experimental_attention_variant is not None:
        settings |= _variant(args)
    if args.multi_latent_attention:
        settings |= _latent(args)
    return settings


def _experts(args: argparse.Namespace) -> dict[str, Any]:
    settings = {
        "moe_shared_expert_intermediate_size": args.moe_shared_expert_intermediate_size,
        "moe_shared_expert_overlap": args.moe_shared_expert_overlap,
        "moe_z_loss_coeff": args.moe_z_loss_coeff,
        "moe_router_score_function": args.moe_router_score_function,
        "moe_router_enable_expert_bias": args.moe_router_enable_expert_bias,
    }
    # Older releases do not know the names of what they cannot do.
    for name in ("moe_shared_expert_gate", "moe_latent_size"):
        if getattr(args, name):
            settings[name] = getattr(args, name)
    return settings


def _variant(args: argparse.Namespace) -> dict[str, Any]:
    if args.experimental_attention_variant == SPARSE_ATTENTION:
        return {
            "experimental_attention_variant": SPARSE_ATTENTION,
            "dsa_indexer_n_heads": 4,
            "dsa_indexer_head_dim": 8,
            "dsa_indexer_topk": args.dsa_indexer_topk,
            "dsa_indexer_loss_coeff": args.dsa_indexer_loss_coeff,
        }
    return {
        "experimental_attention_variant": LINEAR_ATTENTION,
        "linear_attention_freq": args.linear_attention_freq,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": args.linear_num_key_heads,
        "linear_num_value_heads": args.linear_num_value_heads,
        # Megatron's own implementation; the other one is in a package of GPU kernels.
        "deterministic_mode": True,
    }


def _latent(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "multi_latent_attention": True,
        "q_lora_rank": None if args.no_q_lora else args.q_lora_rank,
        "kv_lora_rank": args.kv_lora_rank,
        "qk_head_dim": args.qk_head_dim,
        "qk_pos_emb_head_dim": args.qk_pos_emb_head_dim,
        # Megatron's local attention gives as many features as kv_channels say.
        "v_head_dim": args.hidden_size // args.num_attention_heads,
        "rope_type": args.rope_type,
        "rotary_scaling_factor": 2.0 if args.rope_type == "yarn" else 40.0,
        "original_max_position_embeddings": args.seq_length,
        "mscale": args.mscale,
        "mscale_all_dim": 1.0 if args.rope_type == "yarn" else 0.0,
    }
