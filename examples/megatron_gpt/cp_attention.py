"""Attention under context parallelism, where TransformerEngine is not there to do it.

Every rank gathers the keys and values of the whole sequence and attends to them with
its own queries: the scheme that TransformerEngine calls ``all_gather``. Megatron's own
local attention refuses context parallelism.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.fusions.fused_softmax import FusedScaleMaskSoftmax
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.transformer_config import TransformerConfig


def zigzag_positions(length: int, size: int, rank: int) -> torch.Tensor:
    """Positions in the sequence that a rank holds, in the order of its local array.

    The sequence is cut into ``2 * size`` chunks; a rank holds chunks ``rank`` and
    ``2 * size - 1 - rank``, so that causal attention is equal work for all.

    Args:
        length: Length of the whole sequence.
        size: Number of context-parallel ranks.
        rank: Which of them.

    Returns:
        ``[length / size]``, int64.
    """
    chunks = torch.arange(length).chunk(2 * size)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]])


class _GatherSequence(torch.autograd.Function):
    """``[s / cp, ...]`` of each rank to ``[s, ...]`` in the order of the sequence.

    Backward, every rank has a share of the gradient of the whole: they are summed, and
    each keeps its part.
    """

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, group: dist.ProcessGroup):
        ctx.group = group
        ctx.length = local.size(0) * group.size()
        gathered = local.new_empty((ctx.length, *local.shape[1:]))
        dist.all_gather_into_tensor(gathered, local.contiguous(), group=group)
        whole = torch.empty_like(gathered)
        whole[_held_by_all(ctx.length, group.size())] = gathered
        return whole

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any):
        (gradient,) = grad_outputs
        shares = gradient[_held_by_all(ctx.length, ctx.group.size())].contiguous()
        local = shares.new_empty((ctx.length // ctx.group.size(), *shares.shape[1:]))
        dist.reduce_scatter_tensor(local, shares, group=ctx.group)
        return local, None


def _held_by_all(length: int, size: int) -> torch.Tensor:
    positions = [zigzag_positions(length, size, rank) for rank in range(size)]
    return torch.cat(positions)


class _CausalSoftmax(FusedScaleMaskSoftmax):
    """Softmax whose causal mask knows which queries this rank has.

    Attributes:
        reach: How many tokens back a query sees; None for all.
    """

    reach: int | None = None

    def forward_torch_softmax(self, input, mask, softmax_offset=None):
        length = input.size(3)
        queries = zigzag_positions(
            length,
            parallel_state.get_context_parallel_world_size(),
            parallel_state.get_context_parallel_rank(),
        )
        keys = torch.arange(length)[None, :]
        is_hidden = keys > queries[:, None]
        if self.reach is not None:
            is_hidden |= keys < queries[:, None] - self.reach
        return super().forward_torch_softmax(
            input, is_hidden.to(input.device), softmax_offset
        )


class ContextParallelAttention(DotProductAttention):
    """Megatron's local attention, over keys and values of all context-parallel ranks.

    For causal attention without packed sequences.
    """

    def __init__(self, config: TransformerConfig, *args, **kwargs):
        size = config.context_parallel_size
        config.context_parallel_size = 1  # the base class refuses any other
        try:
            super().__init__(config, *args, **kwargs)
        finally:
            config.context_parallel_size = size
        softmax = self.scale_mask_softmax
        self.scale_mask_softmax = _CausalSoftmax(
            input_in_fp16=softmax.input_in_fp16,
            input_in_bf16=softmax.input_in_bf16,
            attn_mask_type=softmax.attn_mask_type,
            scaled_masked_softmax_fusion=False,
            mask_func=softmax.mask_func,
            softmax_in_fp32=softmax.softmax_in_fp32,
            scale=softmax.scale,
        )
        if softmax.window_size is not None:
            self.scale_mask_softmax.reach = softmax.window_size[0]

    def forward(self, query, key, value, *args, **kwargs):
        """Attends with this rank's queries; all are ``[s / cp, b, heads, d]``."""
        group = parallel_state.get_context_parallel_group()
        return super().forward(
            query,
            _GatherSequence.apply(key, group),
            _GatherSequence.apply(value, group),
            *args,
            **kwargs,
        )
