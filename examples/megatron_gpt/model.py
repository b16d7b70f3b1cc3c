"""The model of the example: configuration, layers, initial parameters."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import (
    MLATransformerConfig,
    TransformerConfig,
)

from ttrace.examples.megatron_gpt.architecture_options import architecture
from ttrace.examples.megatron_gpt.initial_values import initial_distribution
from ttrace.examples.megatron_gpt.layers import layer_specs, mtp_specs
from ttrace.frontends.megatron_parts.description import MegatronDescription
from ttrace.frontends.torch_initialization import initialize_parameters


def make_config(args: argparse.Namespace) -> TransformerConfig:
    """Megatron's configuration; kernels that need CUDA or extra packages are off."""
    dtype = _compute_dtype(args)
    experts: dict[str, Any] = {}
    if args.num_experts is not None:
        experts = {
            "num_moe_experts": args.num_experts,
            "moe_ffn_hidden_size": 2 * args.hidden_size,
            "moe_router_topk": args.moe_router_topk,
            "moe_router_load_balancing_type": (
                args.moe_router_load_balancing_type
                if args.moe_aux_loss_coeff
                else "none"
            ),
            "moe_aux_loss_coeff": args.moe_aux_loss_coeff,
            "moe_router_dtype": None if dtype is torch.float32 else "fp32",
            "moe_token_dispatcher_type": args.moe_token_dispatcher_type,
            "expert_model_parallel_size": args.expert_model_parallel_size,
            "expert_tensor_parallel_size": args.expert_tensor_parallel_size,
        }
    settings = architecture(args)
    kind = MLATransformerConfig if args.multi_latent_attention else TransformerConfig
    return kind(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        normalization=args.normalization,
        layernorm_epsilon=args.norm_epsilon,
        qk_layernorm=args.qk_layernorm,
        gated_linear_unit=args.swiglu,
        activation_func=_activation(args),
        add_bias_linear=not args.disable_bias_linear,
        hidden_dropout=args.hidden_dropout,
        attention_dropout=args.attention_dropout,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        sequence_parallel=args.sequence_parallel,
        context_parallel_size=args.context_parallel_size,
        **_pipeline(args),
        mtp_num_layers=args.mtp_num_layers,
        mtp_loss_scaling_factor=0.1,  # without a default before megatron-core 0.16
        calculate_per_token_loss=args.calculate_per_token_loss,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=args.bf16,
        fp16=args.fp16,
        attention_softmax_in_fp32=True,
        recompute_granularity=args.recompute_granularity,
        recompute_method=args.recompute_method,
        recompute_num_layers=args.recompute_num_layers,
        recompute_modules=args.recompute_modules,
        # Without it parameters are made on the GPU in another random order per layout;
        # with it they also get the attributes that say how they are cut.
        use_cpu_initialization=True,
        # Fused kernels come from Apex, TransformerEngine or Megatron's CUDA sources.
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        cuda_graph_scope=[],
        **experts,
        **settings,
    )


def _activation(args: argparse.Namespace) -> Callable[[torch.Tensor], torch.Tensor]:
    if args.swiglu:
        return torch.nn.functional.silu
    if args.openai_gelu:
        return functools.partial(torch.nn.functional.gelu, approximate="tanh")
    return torch.nn.functional.gelu


def _pipeline(args: argparse.Namespace) -> dict[str, Any]:
    overlaps = args.overlap_p2p_communication
    return {
        "pipeline_model_parallel_size": args.pipeline_model_parallel_size,
        "virtual_pipeline_model_parallel_size": (
            args.virtual_pipeline_model_parallel_size
        ),
        "num_layers_in_first_pipeline_stage": args.decoder_first_pipeline_num_layers,
        "num_layers_in_last_pipeline_stage": args.decoder_last_pipeline_num_layers,
        "overlap_p2p_comm": overlaps,
        "batch_p2p_comm": not overlaps,
        # An overlapped send of gloo still reads the tensor when Megatron would free it.
        "deallocate_pipeline_outputs": not overlaps,
    }


def _compute_dtype(args: argparse.Namespace) -> torch.dtype:
    if args.fp16:
        return torch.float16
    return torch.bfloat16 if args.bf16 else torch.float32


def build_models(
    args: argparse.Namespace, config: TransformerConfig
) -> list[torch.nn.Module]:
    """The model chunks of this rank, with their initial parameters."""
    num_chunks = config.virtual_pipeline_model_parallel_size
    vp_stages = [None] if num_chunks is None else list(range(num_chunks))
    models = [_build_chunk(args, config, vp_stage) for vp_stage in vp_stages]
    initialize_parameters(
        MegatronDescription(models, vocab_size=args.vocab_size),
        lambda named: initial_distribution(named.module, named.slot),
        seed=args.seed,
    )
    for model in models:
        model.cuda(torch.cuda.current_device())
    if args.bf16 or args.fp16:
        return [Float16Module(config, model) for model in models]
    return models


def _build_chunk(
    args: argparse.Namespace, config: TransformerConfig, vp_stage: int | None
) -> torch.nn.Module:
    is_duplicated = args.duplicated_down_projections
    layers: Any = layer_specs(config, vp_stage, is_duplicated=is_duplicated)
    mtp: Any = mtp_specs(config, vp_stage, is_duplicated=is_duplicated)
    place: Any = {"ignore_virtual": False, "vp_stage": vp_stage}
    return GPTModel(
        config,
        layers,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.seq_length,
        pre_process=parallel_state.is_pipeline_first_stage(**place),
        post_process=parallel_state.is_pipeline_last_stage(**place),
        position_embedding_type=args.position_embedding_type,
        share_embeddings_and_output_weights=(
            not args.untie_embeddings_and_output_weights
        ),
        mtp_block_spec=mtp,
        vp_stage=vp_stage,
    )
