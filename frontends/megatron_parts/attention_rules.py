"""Layout rules for attention that is not Megatron's first: MLA, DSA, Gated DeltaNet."""

from typing import Any

import torch

from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.rule_words import HIDDEN_STATES, returns, takes
from ttrace.frontends.megatron_parts.rules import Rule

_COMPRESSED = "s[cp:zigzag,sp] b r"
"""Between down and up projection: no rank has a part of its features."""

_LATENT = "MultiLatentAttention"
_HEADS = "s[cp:zigzag] b n[tp] d"


def _is_no_parallel_linear(module: torch.nn.Module, context: ShardingContext) -> bool:
    return not hasattr(module, "output_size_per_partition")


def _compressing(make: Any, dims: str, path: str, **more: Any) -> Rule:
    return make("*", dims, path=path, parent=_LATENT, **more)


_DOWN = "*.linear_q_down_proj|*.linear_kv_down_proj"

VARIANTS: tuple[Rule, ...] = (
    _compressing(takes, _COMPRESSED, "*.q_layernorm|*.kv_layernorm"),
    _compressing(returns, _COMPRESSED, "*.q_layernorm|*.kv_layernorm"),
    # A duplicated linear; one that is column-parallel is like all others.
    _compressing(takes, "s[cp:zigzag,sp] b i", _DOWN, when=_is_no_parallel_linear),
    _compressing(returns, _COMPRESSED, _DOWN, when=_is_no_parallel_linear),
    _compressing(takes, _HEADS, "*.core_attention", slot="0|1|2|query|key|value"),
    takes("DSAttention", HIDDEN_STATES, slot="x"),
    takes("DSAttention", _COMPRESSED, slot="qr"),
    takes("DSAttention", "b 1 s t", slot="3|attention_mask"),
    returns("DSAttention", "s b o[tp]"),
    # Every rank gathers the sequence and computes all heads of the indexer.
    takes("*", "s b i", slot="0|input", parent="DSAIndexer"),
    returns("*", "s b o", parent="DSAIndexer"),
)


def projected_dims(
    module: torch.nn.Module, shape: tuple[int, ...], context: ShardingContext
) -> str:
    """Dims of what Gated DeltaNet projects its input to.

    Queries, keys, values, gate, beta and alpha, each sharded on its own.

    Args:
        module: The ``GatedDeltaNet``.
        shape: ``[sequence, batch, features]``.
        context: The run.
    """
    return f"s b {projected_dim(module)}"


def projected_dim(module: Any) -> str:
    """The last dim of the same."""
    heads = module.num_value_heads
    sizes = (module.qk_dim, module.qk_dim, module.v_dim, module.v_dim, heads, heads)
    return f"o[tp:parts({','.join(map(str, sizes))})]"


def channels_dim(module: Any) -> str:
    """The dim of its convolution's channels: queries, keys, values."""
    sizes = (module.qk_dim, module.qk_dim, module.v_dim)
    return f"c[tp:parts({','.join(map(str, sizes))})]"


def _convolved_dims(
    module: torch.nn.Module, shape: tuple[int, ...], context: ShardingContext
) -> str:
    return f"b {channels_dim(module)} l"  # longer than the sequence behind it


def _head_rows_dims(
    module: Any, shape: tuple[int, ...], context: ShardingContext
) -> str:
    # Rows are [batch, sequence, heads], flattened; heads are sharded.
    num_local_heads = module.num_value_heads // context.meshes.tp
    return f"x[tp:parts({shape[0] // num_local_heads})] d"


_INSIDE = {"parent": "GatedDeltaNet"}

LINEAR_ATTENTION: tuple[Rule, ...] = (
    takes("GatedDeltaNet", HIDDEN_STATES, slot="0|hidden_states"),
    returns("GatedDeltaNet", HIDDEN_STATES),
    returns("*", path="*.in_proj", dims_of=projected_dims, **_INSIDE),
    takes("*", path="*.conv1d", dims_of=_convolved_dims, **_INSIDE),
    returns("*", path="*.conv1d", dims_of=_convolved_dims, **_INSIDE),
    takes("*", path="*.out_norm", dims_of=_head_rows_dims, **_INSIDE),
    returns("*", path="*.out_norm", dims_of=_head_rows_dims, **_INSIDE),
)
