"""Layout rules for parameters that no attribute describes: whole ones, and unmarked.

A tensor-parallel parameter says by itself how it is sharded (``sharding``). Of one that
every rank has whole, what remains to be known is whether the gradient of one
micro-batch is a partial of a sum: that follows from what the module is given, never
from the ``sequence_parallel`` attribute alone. A module that lost it is a bug to be
found, not a layout.
"""

from typing import Any

import torch

from ttrace.frontends.megatron_parts.attention_rules import channels_dim, projected_dim
from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.rule_words import (
    LATENT_EXPERTS,
    LAYER_PARENTS,
    NORMS,
    holds,
)
from ttrace.frontends.megatron_parts.rules import Rule


def _sees_a_part(module: str, dims: str, slot: str = "*", **more: Any) -> Rule:
    """A parameter whose module is given hidden states."""
    return holds(
        module, dims, slot=slot, gradient_dims=f"{dims} partial[cp,sp]", **more
    )


def _projection_weight(
    module: Any, shape: tuple[int, ...], context: ShardingContext
) -> str:
    return " ".join([projected_dim(module), "i"][: len(shape)])


def _channel_weights(
    module: Any, shape: tuple[int, ...], context: ShardingContext
) -> str:
    return " ".join([channels_dim(module), "i", "k"][: len(shape)])


def _is_no_parallel_linear(module: torch.nn.Module, context: ShardingContext) -> bool:
    return not hasattr(module, "output_size_per_partition")


_LATENT = {"parent": "MultiLatentAttention"}
_OF_HEADS = {"dims": "d", "gradient_dims": "d partial[cp,tp]"}
"""The norm of this rank's heads."""

PARAMETERS: tuple[Rule, ...] = (
    # One number per head; Megatron leaves it unmarked.
    holds("*DotProductAttention", "n[tp]", slot="softmax_offset"),
    _sees_a_part("*", "r", path="*.q_layernorm|*.kv_layernorm", **_LATENT),
    _sees_a_part(
        "*",
        "o i",
        path="*.linear_q_down_proj|*.linear_kv_down_proj",
        when=_is_no_parallel_linear,
        **_LATENT,
    ),
    holds("*", "o i", parent="DSAIndexer"),
    holds("*", "d", parent="DSAIndexer"),
    holds("*", path="*.in_proj", dims_of=_projection_weight, parent="GatedDeltaNet"),
    holds("*", path="*.conv1d", dims_of=_channel_weights, parent="GatedDeltaNet"),
    holds("*", path="*.out_norm", parent="GatedDeltaNet", **_OF_HEADS),
    holds("GatedDeltaNet", "n[tp]", slot="dt_bias|A_log"),
    holds(
        "*",
        path="*.q_layernorm|*.k_layernorm",
        parent="SelfAttention|CrossAttention",
        **_OF_HEADS,
    ),
    _sees_a_part(NORMS, "h", parent=LAYER_PARENTS),
    # The head of BERT is given a part of the sequence, its pooler all of it.
    _sees_a_part("Linear", "o i", slot="weight", parent="BertLMHead"),
    _sees_a_part("Linear", "o", slot="bias", parent="BertLMHead"),
    holds("Linear", "o i", slot="weight", path="pooler.dense|binary_head"),
    holds("Linear", "o", slot="bias", path="pooler.dense|binary_head"),
    _sees_a_part("Router", "e h", slot="weight"),
    _sees_a_part("Router", "e", slot="bias"),
    _sees_a_part("*", "o i", **LATENT_EXPERTS),
    _sees_a_part("SharedExpertMLP", "1 h", slot="gate_weight"),
    _sees_a_part("*RowParallelLinear", "o", slot="bias"),
    _sees_a_part("*ColumnParallelLinear", "i", slot="layer_norm_*"),
)
