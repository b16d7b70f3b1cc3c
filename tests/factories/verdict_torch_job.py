"""A small attention in plain torch, run as a program; options change what it does.

Its attention has a dropout of probability 0 in it; ``--fused`` takes torch's own
attention, without that module. With ``--dropout`` the probability is 0.1, of a
generator that nobody seeded. ``--detach`` keeps gradients from the attention, and
``--autocast`` computes in bfloat16.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttrace.frontends import torch_capture

OPTIONS = sys.argv[1:]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        if "--fused" not in OPTIONS:
            self.drop = nn.Dropout(0.1 if "--dropout" in OPTIONS else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        if "--detach" in OPTIONS:
            x = x.detach()
        q, k, v = self.q(x), self.k(x), self.v(x)
        if "--fused" in OPTIONS:
            return F.scaled_dot_product_attention(q, k, v)
        return self.drop((q @ k.mT / 4).softmax(-1)) @ v


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.attention = Attention()
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(self.norm(x + self.attention(x)))


def main() -> None:
    torch.manual_seed(0)
    model, tokens = Model(), torch.randint(32, (4, 9))
    if "--dropout" in OPTIONS:
        torch.seed()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with torch_capture.trace(model, optimizer) as trace:
        with torch.autocast("cpu", torch.bfloat16, enabled="--autocast" in OPTIONS):
            logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        trace.loss(loss)
        loss.backward()
        optimizer.step()
        trace.step()


if __name__ == "__main__":
    main()
