"""A small Llama in plain torch, which knows nothing of parallelism."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ttrace.examples.torch_recipe.data import VOCABULARY

HIDDEN_SIZE = 32
HEAD_SIZE = 8
NUM_HEADS = 4
NUM_GROUPS = 2
"""Heads of keys and values."""

ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions:
    """What the model is like.

    Attributes:
        num_layers: How many.
        tied: Whether the head is the embedding.
        lora: Whether q and v have adapters.
        dropout: Of the output of attention and MLP.
        recompute: Whether layers are checkpointed.
    """

    num_layers: int
    tied: bool
    lora: bool
    dropout: float
    recompute: bool


class Core(nn.Module):
    """Attention; all are ``[b, s, heads, head_size]``, ``visible`` is ``[b, s, s]``."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        times = query.shape[2] // key.shape[2]
        q, k, v = (
            tensor.transpose(1, 2)
            for tensor in (query, repeat_heads(key, times), repeat_heads(value, times))
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None])
        return out.transpose(1, 2)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, options: LlamaOptions):
        super().__init__()
        shared = NUM_GROUPS * HEAD_SIZE
        self.q: nn.Module = nn.Linear(HIDDEN_SIZE, NUM_HEADS * HEAD_SIZE)
        self.k = nn.Linear(HIDDEN_SIZE, shared)
        self.v: nn.Module = nn.Linear(HIDDEN_SIZE, shared)
        if options.lora:
            self.q, self.v = LoraLinear(self.q), LoraLinear(self.v)
        self.core = Core()
        self.o = nn.Linear(NUM_HEADS * HEAD_SIZE, HIDDEN_SIZE)

    def forward(
        self, hidden: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        query, key, value = (
            part(hidden).unflatten(-1, (-1, HEAD_SIZE))
            for part in (self.q, self.k, self.v)
        )
        context = self.core(
            rotate(query, positions), rotate(key, positions), value, visible
        )
        return self.o(context.flatten(2))


class LoraLinear(nn.Module):
    """A frozen linear and what is learned on top of it.

    Args:
        base: The linear.
    """

    RANK = 4
    ALPHA = 8.0

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, self.RANK, bias=False)
        self.up = nn.Linear(self.RANK, base.out_features, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.base(input) + lora_scaling(self) * self.up(self.down(input))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(HIDDEN_SIZE, 2 * HIDDEN_SIZE)
        self.up = nn.Linear(HIDDEN_SIZE, 2 * HIDDEN_SIZE)
        self.down = nn.Linear(2 * HIDDEN_SIZE, HIDDEN_SIZE)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))


class Layer(nn.Module):
    """Attention and MLP, normalized first."""

    def __init__(self, options: LlamaOptions):
        super().__init__()
        self.attention_norm = nn.RMSNorm(HIDDEN_SIZE)
        self.attention = Attention(options)
        self.mlp_norm = nn.RMSNorm(HIDDEN_SIZE)
        self.mlp = Mlp()
        self.dropout = nn.Dropout(options.dropout)

    def forward(
        self, hidden: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        attended = self.attention(self.attention_norm(hidden), positions, visible)
        hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.mlp(self.mlp_norm(hidden)))


class Llama(nn.Module):
    """The model, or the part of it that a pipeline stage keeps.

    Attributes:
        embed: None where an earlier stage has it.
        layers: By number in the whole model.
        norm: None where a later stage has it; so is ``head``.
    """

    def __init__(self, options: LlamaOptions):
        super().__init__()
        self.embed: nn.Module | None = nn.Embedding(VOCABULARY, HIDDEN_SIZE)
        self.layers = nn.ModuleDict(
            {str(number): Layer(options) for number in range(options.num_layers)}
        )
        self.norm: nn.Module | None = nn.RMSNorm(HIDDEN_SIZE)
        self.head: nn.Module | None = nn.Linear(HIDDEN_SIZE, VOCABULARY, bias=False)
        if options.tied:
            self.head.weight = self.embed.weight
        self.recompute = options.recompute

    def forward(
        self, inputs: torch.Tensor, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``; hidden states between stages."""
        b, s = inputs.shape[:2]
        if documents is None:
            documents = torch.zeros(b, s, dtype=torch.long, device=inputs.device)
        positions, visible = positions_in(documents), visible_keys(documents)
        hidden = inputs if self.embed is None else self.embed(inputs)
        for layer in self.layers.values():
            if self.recompute:
                hidden = checkpoint(
                    layer, hidden, positions, visible, use_reentrant=False
                )
            else:
                hidden = layer(hidden, positions, visible)
        if self.norm is not None and self.head is not None:
            hidden = self.head(self.norm(hidden))
        return hidden


def positions_in(documents: torch.Tensor) -> torch.Tensor:
    """``[b, s]``, the places of the tokens in their documents."""
    places = torch.arange(documents.shape[1], device=documents.device)
    is_first = documents.diff(dim=1, prepend=documents[:, :1] - 1) != 0
    return places - (places * is_first).cummax(dim=1).values


def visible_keys(documents: torch.Tensor) -> torch.Tensor:
    """``[b, s, s]``, which keys a query sees: earlier ones of its own document."""
    places = torch.arange(documents.shape[1], device=documents.device)
    is_own = documents[:, :, None] == documents[:, None, :]
    return is_own & (places <= places[:, None])


def repeat_heads(tensor: torch.Tensor, times: int) -> torch.Tensor:
    """``[b, s, groups, d]`` to ``[b, s, groups * times, d]``, copies side by side."""
    return tensor.repeat_interleave(times, dim=2)


def rotate(tensor: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rotary positions ``[b, s]`` on ``[b, s, heads, d]``, pairs (i, i + d/2)."""
    half = tensor.shape[-1] // 2
    powers = torch.arange(half, device=tensor.device) / half
    angles = positions[..., None, None] * ROPE_BASE**-powers
    first, second = tensor.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def lora_scaling(linear: LoraLinear) -> float:
    """What the learned part is multiplied by."""
    return linear.ALPHA / linear.RANK
