"""Attention that is given one mask, and positions, in different forms.

A worker of ``examples/worker_pool.py`` runs ``main``.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ttrace.frontends import torch_capture

WIDTH, LENGTH, SAMPLES, HEADS = 16, 6, 4, 2


class Scores(nn.Module):
    """Attention of a mask that is added to scores, or boolean; weights on request."""

    def __init__(self, weights: bool):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.weights = weights

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        if not self.weights:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return y.transpose(1, 2).flatten(2), None
        scores = q @ k.mT / q.shape[-1] ** 0.5 + mask
        weights = scores.softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2), weights


class Model(nn.Module):
    """Two layers of attention, and a head."""

    def __init__(self, options: Sequence[str]):
        super().__init__()
        self.options = options
        self.tokens = nn.Embedding(20, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Scores("weights" in options) for _ in range(2))
        self.head = nn.Linear(WIDTH, 20)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        kept = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        kept = kept & (tokens != 0)[:, None, None]
        if "wrong" in self.options:
            kept[1, 0, 5, 2] = ~kept[1, 0, 5, 2]
        mask = kept
        if "infinite" in self.options:
            mask = torch.zeros(kept.shape).masked_fill(~kept, -torch.inf)
        elif "least" in self.options:
            least = torch.finfo(torch.float32).min
            mask = torch.zeros(kept.shape).masked_fill(~kept, least)
        places = torch.arange(LENGTH)[None]
        if "repeated" in self.options:
            places = places.expand(SAMPLES, LENGTH)
        x = self.tokens(tokens) + self.places(places)
        for layer in self.layers:
            x = x + layer(x, mask)[0]
        return self.head(x)


def main(argv: Sequence[str]) -> int:
    """Trains two steps."""
    torch.manual_seed(0)
    model = Model(argv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            shape = (SAMPLES, LENGTH + 1)
            data = torch.randint(1, 20, shape, generator=generator)
            data[1, 4:] = 0
            loss = F.cross_entropy(
                model(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten()
            )
            trace.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0
