"""The layers of the example: Megatron's local ones, and what they lack on a CPU."""

import dataclasses
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_mtp_block_spec,
)
from megatron.core.transformer.multi_token_prediction import (
    MultiTokenPredictionBlockSubmodules,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from ttrace.examples.megatron_gpt.attention_variants import (
    DuplicatedLinear,
    LatentContextParallelAttention,
    LatentDotProductAttention,
    linear_attention,
    sparse_core_attention,
    take_duplicated_linears,
)
from ttrace.examples.megatron_gpt.cp_attention import ContextParallelAttention


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


def layer_specs(
    config: TransformerConfig, vp_stage: int | None, *, is_duplicated: bool = False
) -> TransformerBlockSubmodules:
    """The layers of one model chunk.

    Args:
        config: Megatron's configuration.
        vp_stage: Number of the chunk on its rank; None without virtual stages.
        is_duplicated: Down projections of multi-latent attention are whole on every
            tensor-parallel rank.
    """
    norm: Any = SequenceParallelNorm
    first = get_transformer_layer_offset(config, vp_stage=vp_stage)
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    softmax_layer = _layer_spec(config, is_duplicated=is_duplicated)
    layers = [
        _with(softmax_layer, self_attention=linear_attention(norm))
        if _is_linear(config, number)
        else softmax_layer
        for number in range(first, first + num_layers)
    ]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm)


def mtp_specs(
    config: TransformerConfig, vp_stage: int | None, *, is_duplicated: bool = False
) -> MultiTokenPredictionBlockSubmodules | None:
    """The layers of multi-token prediction; None on chunks that have none.

    Args:
        config: Megatron's configuration.
        vp_stage: As in ``layer_specs``.
        is_duplicated: As in ``layer_specs``.
    """
    if not config.mtp_num_layers:
        return None
    block: Any = get_gpt_mtp_block_spec(
        config,
        _layer_spec(config, is_duplicated=is_duplicated),
        use_transformer_engine=False,
        vp_stage=vp_stage,
    )
    if block is None:
        return None
    norms = dict.fromkeys(("enorm", "hnorm", "layer_norm"), SequenceParallelNorm)
    return MultiTokenPredictionBlockSubmodules(
        layer_specs=[_with(layer, **norms) for layer in block.layer_specs]
    )


def _layer_spec(
    config: TransformerConfig, *, is_duplicated: bool = False
) -> ModuleSpec:
    take_duplicated_linears()
    is_latent = bool(config.multi_latent_attention)
    local: Any = get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts,
        qk_layernorm=config.qk_layernorm,
        multi_latent_attention=is_latent,
        qk_l2_norm=_has_l2_norm(config),
    )
    attention = local.submodules.self_attention
    if is_latent:
        attention = _with(attention, **_latent_attention(config, is_duplicated))
    elif config.qk_layernorm and not _has_l2_norm(config):
        attention = _with(
            attention,
            q_layernorm=SequenceParallelNorm,
            k_layernorm=SequenceParallelNorm,
        )
    if config.context_parallel_size > 1 and not is_latent:
        attention = _with(attention, core_attention=ContextParallelAttention)
    return _with(
        local,
        self_attention=attention,
        input_layernorm=SequenceParallelNorm,
        pre_mlp_layernorm=SequenceParallelNorm,
    )


def _has_l2_norm(config: TransformerConfig) -> bool:
    return bool(getattr(config, "qk_l2_norm", False))


def _latent_attention(config: TransformerConfig, is_duplicated: bool) -> dict[str, Any]:
    core: Any = LatentDotProductAttention
    if getattr(config, "experimental_attention_variant", None) == "dsa":
        core = sparse_core_attention()
    elif config.context_parallel_size > 1:
        core = LatentContextParallelAttention
    parts: dict[str, Any] = {"core_attention": core}
    if config.qk_layernorm:
        parts |= dict.fromkeys(("q_layernorm", "kv_layernorm"), SequenceParallelNorm)
    if is_duplicated:
        names = ("linear_q_down_proj", "linear_kv_down_proj")
        parts |= dict.fromkeys(names, DuplicatedLinear)
    return parts


def _is_linear(config: TransformerConfig, number: int) -> bool:
    """Whether a layer, counted from 0, has linear attention: all but every nth."""
    if getattr(config, "experimental_attention_variant", None) != "gated_delta_net":
        return False
    frequency: Any = config.linear_attention_freq
    return (number + 1) % frequency != 0


def _with(spec: Any, **submodules) -> ModuleSpec:
    return dataclasses.replace(
        spec, submodules=dataclasses.replace(spec.submodules, **submodules)
    )
