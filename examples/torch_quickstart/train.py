"""A small language model in plain torch; --chunked takes the new attention."""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttrace.frontends import torch_capture


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class ChunkedAttention(nn.Module):
    """The same, 8 queries at a time, so that fewer scores are held at once."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outputs = []
        for start in range(0, q.shape[1], 8):
            scores = q[:, start : start + 8] @ k.mT / q.shape[-1] ** 0.5
            is_later = torch.ones_like(scores, dtype=torch.bool).triu(1)
            outputs.append(scores.masked_fill(is_later, -torch.inf).softmax(-1) @ v)
        return torch.cat(outputs, dim=1)


class Model(nn.Module):
    def __init__(self, attention: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.attention = attention
        self.head = nn.Linear(32, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.head(x + self.attention(q, k, v))


def main() -> None:
    torch.manual_seed(0)
    model = Model(ChunkedAttention() if "--chunked" in sys.argv else Attention())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(3):
            tokens = torch.randint(64, (4, 33))
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            trace.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
            print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
