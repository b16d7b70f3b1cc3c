"""The model of the example: configuration, layers, initial parameters, optimizer."""

import argparse
import dataclasses
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
)
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from ttrace.frontends.megatron_description import MegatronDescription
from ttrace.frontends.torch_description import NamedParameter
from ttrace.frontends.torch_initialization import initialize_parameters
from ttrace.generate import Bell, Distribution


def make_config(args: argparse.Namespace) -> TransformerConfig:
    """Megatron's configuration; kernels that need CUDA or extra packages are off."""
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    experts: dict[str, Any] = {}
    if args.num_experts is not None:
        experts = {
            "num_moe_experts": args.num_experts,
            "moe_ffn_hidden_size": 2 * args.hidden_size,
            "moe_router_topk": args.moe_router_topk,
            "moe_router_load_balancing_type": "none",
            "moe_router_dtype": "fp32" if args.bf16 else None,
            "moe_token_dispatcher_type": args.moe_token_dispatcher_type,
            "expert_model_parallel_size": args.expert_model_parallel_size,
            "expert_tensor_parallel_size": args.expert_tensor_parallel_size,
        }
    return TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=4 * args.hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        normalization=args.normalization,
        qk_layernorm=args.qk_layernorm,
        gated_linear_unit=args.swiglu,
        activation_func=(
            torch.nn.functional.silu if args.swiglu else torch.nn.functional.gelu
        ),
        add_bias_linear=not args.disable_bias_linear,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        sequence_parallel=args.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=args.bf16,
        attention_softmax_in_fp32=True,
        recompute_granularity=args.recompute_granularity,
        recompute_method=args.recompute_method,
        recompute_num_layers=args.recompute_num_layers,
        # Without it parameters are made on the GPU in another random order per layout;
        # with it they also get the attributes that say how they are cut.
        use_cpu_initialization=True,
        perform_initialization=True,
        # Fused kernels come from Apex, TransformerEngine or Megatron's CUDA sources.
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        cuda_graph_scope=[],
        **experts,
    )


class SequenceParallelNorm:
    """Torch's norm, with the mark that sequence parallelism needs on its parameters.

    Megatron's ``WrappedTorchNorm`` refuses sequence parallelism; its other norms come
    from Apex and TransformerEngine, and mark their parameters in this way.
    """

    def __new__(
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **kwargs
    ) -> Any:
        norms = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}
        norm = norms[config.normalization](normalized_shape=hidden_size, eps=eps)
        for parameter in norm.parameters():
            setattr(parameter, "sequence_parallel", config.sequence_parallel)  # noqa: B010
        return norm


def layer_specs(config: TransformerConfig) -> TransformerBlockSubmodules:
    """Megatron's local layers, with the norm above."""
    local: Any = get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts, qk_layernorm=config.qk_layernorm
    )
    attention = local.submodules.self_attention
    if config.qk_layernorm:
        attention = _with(
            attention,
            q_layernorm=SequenceParallelNorm,
            k_layernorm=SequenceParallelNorm,
        )
    layer = _with(
        local,
        self_attention=attention,
        input_layernorm=SequenceParallelNorm,
        pre_mlp_layernorm=SequenceParallelNorm,
    )
    norm: Any = SequenceParallelNorm
    return TransformerBlockSubmodules(
        layer_specs=[layer] * config.num_layers, layer_norm=norm
    )


def _with(spec: Any, **submodules) -> ModuleSpec:
    return dataclasses.replace(
        spec, submodules=dataclasses.replace(spec.submodules, **submodules)
    )


def build_models(
    args: argparse.Namespace, config: TransformerConfig
) -> list[torch.nn.Module]:
    """The model chunks of this rank, with their initial parameters; one, so far."""
    layers: Any = layer_specs(config)
    model = GPTModel(
        config,
        layers,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.seq_length,
        position_embedding_type=args.position_embedding_type,
        share_embeddings_and_output_weights=(
            not args.untie_embeddings_and_output_weights
        ),
    )
    initialize_parameters(
        MegatronDescription(model, vocab_size=args.vocab_size),
        initial_distribution,
        seed=args.seed,
    )
    model.cuda(torch.cuda.current_device())
    return [Float16Module(config, model) if args.bf16 else model]


def initial_distribution(named: NamedParameter) -> Distribution:
    """What a parameter looks like at the start.

    No parameter is constant: a bias of zeros or a norm of ones would hide that it is
    cut, shifted or exchanged.
    """
    norm = "norm" in named.module
    if named.slot == "bias":
        return Bell(scale=2.0**-6)
    if norm:
        return Bell(scale=2.0**-5, offset=1.0)
    if named.module.endswith(".router"):
        # Apart enough for every layout to choose the same experts.
        return Bell(scale=2.0**-2)
    if named.parameter.dim() == 2 and named.module.endswith(
        ("linear_proj", "linear_fc2")
    ):
        return Bell(scale=2.0**-6)
    return Bell(scale=2.0**-5)


def wrap_models(
    args: argparse.Namespace,
    config: TransformerConfig,
    models: list[torch.nn.Module],
) -> tuple[list[DistributedDataParallel], MegatronOptimizer]:
    """Gradient buffers, data parallelism and the optimizer around the models."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, check_for_nan_in_grad=True
    )
    chunks = [DistributedDataParallel(config, ddp_config, model) for model in models]
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer=args.optimizer,
            lr=args.lr,
            min_lr=args.lr,
            weight_decay=0.01,
            clip_grad=args.clip_grad,
            bf16=args.bf16,
            params_dtype=config.params_dtype,
        ),
        list(chunks),
    )
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    return chunks, optimizer
