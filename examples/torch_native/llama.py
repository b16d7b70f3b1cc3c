"""A small Llama in plain torch, which knows nothing of parallelism.

Its layers keep their numbers wherever they are, so that a stage of a pipeline calls
them what the whole model calls them.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSize:
    """What the model is like.

    Attributes:
        num_layers: Number of blocks.
        hidden_size: Width between the blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; a divisor of the query heads.
        vocab_size: Number of tokens.
        tied: The head has the weight of the embedding.
    """

    num_layers: int = 2
    hidden_size: int = 32
    num_heads: int = 4
    num_kv_heads: int = 4
    vocab_size: int = 64
    tied: bool = False

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


class Attention(nn.Module):
    """Causal attention of grouped queries, with rotary positions."""

    def __init__(self, size: LlamaSize):
        super().__init__()
        width = size.head_size
        self.head_size = width
        self.wq = nn.Linear(size.hidden_size, size.num_heads * width, bias=False)
        self.wk = nn.Linear(size.hidden_size, size.num_kv_heads * width, bias=False)
        self.wv = nn.Linear(size.hidden_size, size.num_kv_heads * width, bias=False)
        self.wo = nn.Linear(size.num_heads * width, size.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # -1: under tensor parallelism each rank has some of the heads.
        q, k, v = (
            part(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for part in (self.wq, self.wk, self.wv)
        )
        y = F.scaled_dot_product_attention(
            rotated(q), rotated(k), v, is_causal=True, enable_gqa=True
        )
        return self.wo(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, size: LlamaSize):
        super().__init__()
        self.w1 = nn.Linear(size.hidden_size, 2 * size.hidden_size, bias=False)
        self.w2 = nn.Linear(2 * size.hidden_size, size.hidden_size, bias=False)
        self.w3 = nn.Linear(size.hidden_size, 2 * size.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """One layer, normalized first."""

    def __init__(self, size: LlamaSize):
        super().__init__()
        self.attention_norm = nn.RMSNorm(size.hidden_size)
        self.attention = Attention(size)
        self.ffn_norm = nn.RMSNorm(size.hidden_size)
        self.feed_forward = FeedForward(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """The model, or the part of it that one stage of a pipeline keeps.

    Attributes:
        tok_embeddings: None where an earlier stage has it.
        layers: By their numbers in the whole model.
        norm: None where a later stage has it; so is ``output``.
    """

    def __init__(self, size: LlamaSize):
        super().__init__()
        self.tok_embeddings: nn.Module | None = nn.Embedding(
            size.vocab_size, size.hidden_size
        )
        self.layers = nn.ModuleDict(
            {str(number): Block(size) for number in range(size.num_layers)}
        )
        self.norm: nn.Module | None = nn.RMSNorm(size.hidden_size)
        self.output: nn.Module | None = nn.Linear(
            size.hidden_size, size.vocab_size, bias=False
        )
        if size.tied:
            self.output.weight = self.tok_embeddings.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``; between stages ``[b, s, h]``."""
        if self.tok_embeddings is not None:
            x = self.tok_embeddings(x)
        for layer in self.layers.values():
            x = layer(x)
        if self.norm is not None and self.output is not None:
            x = self.output(self.norm(x))
        return x


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Turns pairs of features of ``[b, heads, s, head_size]`` by their positions."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** -(torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
