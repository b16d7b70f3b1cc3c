"""A small Llama in plain torch, which knows nothing of parallelism.

Its layers keep their numbers wherever they are, so that a stage of a pipeline calls
them what the whole model calls them.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ttrace.examples.torch_native.lora import LoraLinear

ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions:
    """What the model is like.

    Attributes:
        num_layers: Number of blocks.
        hidden_size: Width between the blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; a divisor of the query heads.
        vocab_size: Number of tokens.
        bias: Linears have biases, but for the head.
        tied: The head has the weight of the embedding.
        lora: Query and value have adapters.
        dropout: Of the outputs of attention and MLP.
    """

    num_layers: int = 2
    hidden_size: int = 32
    num_heads: int = 4
    num_kv_heads: int = 4
    vocab_size: int = 64
    bias: bool = False
    tied: bool = False
    lora: bool = False
    dropout: float = 0.0

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


class Core(nn.Module):
    """Attention of ``[b, s, heads, d]``; ``visible`` is ``[b, s, s]``, or causal."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visible: torch.Tensor | None,
    ) -> torch.Tensor:
        times = query.shape[2] // key.shape[2]
        q, k, v = (
            tensor.transpose(1, 2)
            for tensor in (query, repeat_heads(key, times), repeat_heads(value, times))
        )
        mask = None if visible is None else visible[:, None]
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=visible is None
        )
        return out.transpose(1, 2)


class Attention(nn.Module):
    """Causal attention of grouped queries, with rotary positions."""

    def __init__(self, options: LlamaOptions):
        super().__init__()
        hidden, width, bias = options.hidden_size, options.head_size, options.bias
        self.head_size = width
        self.q: nn.Module = nn.Linear(hidden, options.num_heads * width, bias=bias)
        self.k = nn.Linear(hidden, options.num_kv_heads * width, bias=bias)
        self.v: nn.Module = nn.Linear(hidden, options.num_kv_heads * width, bias=bias)
        if options.lora:
            self.q, self.v = LoraLinear(self.q), LoraLinear(self.v)
        self.core = Core()
        self.o = nn.Linear(options.num_heads * width, hidden, bias=bias)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor | None,
        visible: torch.Tensor | None,
    ) -> torch.Tensor:
        # -1: under tensor parallelism each rank has some of the heads.
        query, key, value = (
            part(x).unflatten(-1, (-1, self.head_size))
            for part in (self.q, self.k, self.v)
        )
        if positions is None:
            positions = torch.arange(query.shape[1], device=query.device)[None]
        query, key = rotate(query, positions), rotate(key, positions)
        return self.o(self.core(query, key, value, visible).flatten(2))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, options: LlamaOptions):
        super().__init__()
        hidden, bias = options.hidden_size, options.bias
        self.gate = nn.Linear(hidden, 2 * hidden, bias=bias)
        self.up = nn.Linear(hidden, 2 * hidden, bias=bias)
        self.down = nn.Linear(2 * hidden, hidden, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One layer, normalized first."""

    def __init__(self, options: LlamaOptions):
        super().__init__()
        self.attention_norm = nn.RMSNorm(options.hidden_size)
        self.attention = Attention(options)
        self.mlp_norm = nn.RMSNorm(options.hidden_size)
        self.mlp = Mlp(options)
        self.dropout = nn.Dropout(options.dropout) if options.dropout else None

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor | None,
        visible: torch.Tensor | None,
    ) -> torch.Tensor:
        attended = self.attention(self.attention_norm(x), positions, visible)
        x = x + self._dropped(attended)
        return x + self._dropped(self.mlp(self.mlp_norm(x)))

    def _dropped(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.dropout is None else self.dropout(x)


class Llama(nn.Module):
    """The model, or the part of it that one stage of a pipeline keeps.

    Attributes:
        embed: None where an earlier stage has it.
        layers: By their numbers in the whole model.
        norm: None where a later stage has it; so is ``head``.
    """

    def __init__(self, options: LlamaOptions):
        super().__init__()
        hidden, vocabulary = options.hidden_size, options.vocab_size
        self.embed: nn.Module | None = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleDict(
            {str(number): Block(options) for number in range(options.num_layers)}
        )
        self.norm: nn.Module | None = nn.RMSNorm(hidden)
        self.head: nn.Module | None = nn.Linear(hidden, vocabulary, bias=False)
        if options.tied:
            self.head.weight = self.embed.weight

    def forward(
        self, x: torch.Tensor, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``; between stages ``[b, s, h]``.

        Args:
            x: Tokens, or what the stage before returned.
            documents: Which document of its sample a token is of, ``[b, s]``; None
                where a sample is one.
        """
        positions = visible = None
        if documents is not None:
            positions, visible = positions_in(documents), visible_keys(documents)
        if self.embed is not None:
            x = self.embed(x)
        for layer in self.layers.values():
            x = layer(x, positions, visible)
        if self.norm is not None and self.head is not None:
            x = self.head(self.norm(x))
        return x


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
    cos, sin = angles.cos().to(tensor.dtype), angles.sin().to(tensor.dtype)
    first, second = tensor.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
