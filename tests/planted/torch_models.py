"""Random small models of torch, and how they are trained."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Causal, of one or two heads; with one or with three projections."""

    def __init__(self, width: int, heads: int, *, fused: bool):
        super().__init__()
        self.heads = heads
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "qkv"):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linears and a function; gated or not."""

    def __init__(self, width: int, function: nn.Module, *, gated: bool):
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.gate = nn.Linear(width, 2 * width) if gated else None
        self.act = function
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.gate is None:
            return self.down(self.act(up))
        return self.down(self.act(self.gate(x)) * up)


class Convolution(nn.Module):
    """Over the sequence, each position sees two before it."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)


class Recurrent(nn.Module):
    """A GRU over the sequence; its last state is used by nobody."""

    def __init__(self, width: int):
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class Block(nn.Module):
    """A norm, something that mixes, and a residual connection."""

    def __init__(self, norm: nn.Module, mixer: nn.Module):
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))


class SmallModel(nn.Module):
    """A language model of a few blocks, drawn by a seed.

    Args:
        seed: Draws sizes, blocks and initial values.
    """

    def __init__(self, seed: int):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def one_of(*values):
            return values[int(torch.randint(len(values), (), generator=draw))]

        torch.manual_seed(seed)
        width = one_of(8, 12, 16)
        self.vocabulary = one_of(20, 33)
        self.embed = nn.Embedding(self.vocabulary, width)
        norm = one_of(nn.LayerNorm, nn.RMSNorm)

        def mixer(kind):
            function = one_of(nn.GELU, nn.SiLU, nn.ReLU)()
            return {
                "attention": lambda: Attention(width, one_of(1, 2), fused=one_of(0, 1)),
                "mlp": lambda: Mlp(width, function, gated=one_of(False, True)),
                "convolution": lambda: Convolution(width),
                "recurrent": lambda: Recurrent(width),
            }[kind]()

        kinds = ["attention", "mlp"] + [
            one_of("attention", "mlp", "convolution", "recurrent")
            for _ in range(one_of(0, 1, 2))
        ]
        self.blocks = nn.Sequential(
            *(Block(norm(width, eps=1e-5), mixer(kind)) for kind in kinds)
        )
        self.norm = norm(width, eps=1e-5)
        self.head = nn.Linear(width, self.vocabulary, bias=one_of(False, True))
        if one_of(False, True):
            self.head.weight = self.embed.weight
        with torch.no_grad():  # no parameter is what a mistake would make of it
            for parameter in self.parameters():
                if parameter.ndim == 1:
                    parameter += 0.2 * torch.randn(parameter.shape)
                else:
                    parameter.normal_(std=1 / math.sqrt(parameter.shape[-1]))
        self.optimizer_name = one_of("sgd", "adamw")
        self.num_microbatches = one_of(1, 2)
        self.clips = one_of(False, True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))))
