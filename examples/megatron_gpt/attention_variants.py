"""Attention variants of the example: multi-latent, sparse and linear attention.

Megatron's own modules. What it takes from TransformerEngine, and its local modules do
not offer, is here in plain torch.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import multi_latent_attention
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.moe import moe_layer
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from ttrace.examples.megatron_gpt.cp_attention import ContextParallelAttention


class DuplicatedLinear(torch.nn.Linear):
    """A linear that every tensor-parallel rank has whole.

    As TransformerEngine's ``TELinear`` with ``parallel_mode="duplicated"``; Megatron
    sums the gradients of such a one over the ranks if it is marked.

    Args:
        input_size: Features of the input.
        output_size: Features of the output.
        config: Megatron's configuration.
        init_method: Fills the weight.
        is_marked: The input is cut along the sequence, so each rank has a share of the
            weight's gradient.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: TransformerConfig,
        init_method: Any,
        is_marked: bool = True,
        **kwargs: Any,
    ):
        super().__init__(input_size, output_size, bias=False, dtype=config.params_dtype)
        if config.perform_initialization:
            init_method(self.weight)
        is_partial = config.sequence_parallel and is_marked
        setattr(self.weight, "sequence_parallel", is_partial)  # noqa: B010

    def forward(self, input: torch.Tensor) -> Any:
        """The output and, as Megatron's linears, a bias: None."""
        return super().forward(input), None


class IndexerLinear(DuplicatedLinear):
    """One that is given the whole sequence, as the indexer of sparse attention is."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, is_marked=False, **kwargs)


class IndexerNorm(torch.nn.LayerNorm):
    """The norm of the indexer's keys: of the whole sequence, on every rank."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)


def _without_channels(attention: type) -> type:
    class LatentAttention(attention):
        """Takes the sizes of heads that multi-latent attention gives its attention."""

        def __init__(
            self,
            *args: Any,
            k_channels: int | None = None,
            v_channels: int | None = None,
            **kwargs: Any,
        ):
            super().__init__(*args, **kwargs)

    return LatentAttention


LatentDotProductAttention = _without_channels(DotProductAttention)
LatentContextParallelAttention = _without_channels(ContextParallelAttention)


def take_duplicated_linears() -> None:
    """Lets Megatron have ``DuplicatedLinear`` where it asks for TransformerEngine's.

    Multi-latent attention asks for it, and fails where there is none, whatever its
    projections are; experts on projected tokens have no other.
    """
    multi_latent_attention.TELinear = DuplicatedLinear
    moe_layer.TELinear = DuplicatedLinear
    moe_layer.HAVE_TE = True


def sparse_core_attention() -> ModuleSpec:
    """Sparse attention with its indexer."""
    # Here, as below: releases before megatron-core 0.16 lack these modules.
    from megatron.core.transformer.experimental_attention_variant.dsa import (
        DSAIndexer,
        DSAIndexerSubmodules,
        DSAttention,
        DSAttentionSubmodules,
    )

    linear: Any = IndexerLinear
    norm: Any = IndexerNorm
    return ModuleSpec(
        module=DSAttention,
        submodules=DSAttentionSubmodules(
            indexer=ModuleSpec(
                module=DSAIndexer,
                submodules=DSAIndexerSubmodules(
                    linear_wq_b=linear,
                    linear_wk=linear,
                    k_norm=norm,
                    linear_weights_proj=linear,
                ),
            )
        ),
    )


def linear_attention(norm: Any) -> ModuleSpec:
    """Gated DeltaNet.

    Args:
        norm: Class of its output norm.
    """
    from megatron.core.ssm.gated_delta_net import (
        GatedDeltaNet,
        GatedDeltaNetSubmodules,
    )

    return ModuleSpec(
        module=GatedDeltaNet,
        submodules=GatedDeltaNetSubmodules(
            in_proj=ColumnParallelLinear, out_norm=norm, out_proj=RowParallelLinear
        ),
    )
