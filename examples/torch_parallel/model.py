"""A small GPT in plain torch, which knows nothing of parallelism.

The files of the parallelisms replace some of its parts, as a user would by hand.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.generate import Bell, Distribution

Exchange = Callable[[torch.Tensor], torch.Tensor]
"""Rearranges ``[b, s, heads, head_size]`` between the ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What the model is like.

    Attributes:
        num_layers: Number of blocks.
        hidden_size: Width between the blocks; the MLP is four times as wide.
        num_heads: Attention heads.
        seq_length: Tokens per sample.
        vocab_size: Number of tokens.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    seq_length: int
    vocab_size: int


class InputEmbedding(nn.Module):
    """Tokens and learned positions.

    Attributes:
        first_position: Place in the sample of the first token that this rank has.
    """

    def __init__(self, size: ModelSize):
        super().__init__()
        self.tokens = nn.Embedding(size.vocab_size, size.hidden_size)
        self.positions = nn.Embedding(size.seq_length, size.hidden_size)
        self.first_position = 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.tokens(tokens) + self.positions(self.position_ids(tokens))

    def position_ids(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[s]``, the places of the tokens ``[b, s]`` in their samples."""
        first = self.first_position
        return torch.arange(first, first + tokens.shape[1], device=tokens.device)


class CoreAttention(nn.Module):
    """Causal attention; all are ``[b, s, heads, head_size]``, of the whole sequence."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        scores = torch.einsum("bqad,bkad->baqk", query, key)
        scores = scores / math.sqrt(query.shape[-1])
        places = torch.arange(query.shape[1], device=query.device)
        scores = scores.masked_fill(places[:, None] < places, -math.inf)
        return torch.einsum("baqk,bkad->bqad", scores.softmax(-1), value)


def _stays(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class Attention(nn.Module):
    """Self-attention.

    Attributes:
        before_core: Applied to query, key and value.
        after_core: Applied to what the core returns.
    """

    def __init__(self, size: ModelSize):
        super().__init__()
        self.head_size = size.hidden_size // size.num_heads
        self.qkv = nn.Linear(size.hidden_size, 3 * size.hidden_size)
        self.core: nn.Module = CoreAttention()
        self.proj = nn.Linear(size.hidden_size, size.hidden_size)
        self.before_core: Exchange = _stays
        self.after_core: Exchange = _stays

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(hidden).chunk(3, dim=-1)
        heads = (part.unflatten(-1, (-1, self.head_size)) for part in parts)
        context = self.after_core(self.core(*map(self.before_core, heads)))
        return self.proj(context.flatten(2))


class Mlp(nn.Module):
    """Two linears with GELU between."""

    def __init__(self, size: ModelSize):
        super().__init__()
        self.fc1 = nn.Linear(size.hidden_size, 4 * size.hidden_size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * size.hidden_size, size.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(hidden)))


class Block(nn.Module):
    """One layer, normalized first."""

    def __init__(self, size: ModelSize):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.hidden_size)
        self.attention = Attention(size)
        self.mlp_norm = nn.LayerNorm(size.hidden_size)
        self.mlp = Mlp(size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.mlp(self.mlp_norm(hidden))


class Gpt(nn.Module):
    """The model, or the part of it that one pipeline stage keeps.

    Attributes:
        embedding: None where an earlier stage has it.
        blocks: By global number.
        final_norm: None where a later stage has it; so is ``head``.
    """

    def __init__(self, size: ModelSize):
        super().__init__()
        self.embedding: InputEmbedding | None = InputEmbedding(size)
        self.blocks = nn.ModuleDict(
            {str(i): Block(size) for i in range(size.num_layers)}
        )
        self.final_norm: nn.Module | None = nn.LayerNorm(size.hidden_size)
        self.head: nn.Module | None = nn.Linear(size.hidden_size, size.vocab_size)

    def layers(self) -> Iterator[Block]:
        """The blocks, in order."""
        for block in self.blocks.values():
            assert isinstance(block, Block)
            yield block

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits ``[b, s, v]`` of tokens ``[b, s]``; hidden states between stages."""
        hidden = inputs if self.embedding is None else self.embedding(inputs)
        for block in self.layers():
            hidden = block(hidden)
        if self.final_norm is not None and self.head is not None:
            hidden = self.head(self.final_norm(hidden))
        return hidden


def initial_distribution(named: NamedParameter) -> Distribution:
    """What a parameter looks like at the start; none is constant or tiny."""
    if named.slot == "weight" and named.module.endswith("norm"):
        return Bell(scale=2.0**-3, offset=1.0)
    return Bell(scale=2.0**-3)
