"""Samples of several lengths, given to a small encoder in padded micro-batches.

A worker of ``examples/worker_pool.py`` runs ``main``.
"""

import argparse
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from tests.factories.native_job import VOCABULARY, WIDTH
from ttrace.frontends import torch_capture

LENGTHS = (3, 9, 5, 6, 4, 12, 7, 3)
PADDING = 0


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.masks = True

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        seen = mask[:, None, :].bool() if self.masks else None
        return x + self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids, attention_mask, segments):
        x = self.tok(input_ids) + segments[..., None]
        for block in self.blocks:
            x = block(x, attention_mask)
        return self.head(x)


def main(argv: Sequence[str]) -> int:
    """Trains two steps of 8 samples each."""
    args = _arguments(argv)
    rank, size = (dist.get_rank(), dist.get_world_size()) if args.ddp else (0, 1)
    torch.manual_seed(0)
    plain = Encoder()
    plain.blocks[1].masks = args.bug != "no-mask"
    model: nn.Module = nn.parallel.DistributedDataParallel(plain) if args.ddp else plain
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    generator = torch.Generator().manual_seed(args.seed)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            samples = [
                torch.randint(1, VOCABULARY, (length,), generator=generator)
                for length in LENGTHS
            ]
            own = samples[rank::size]
            for start in range(0, len(own), args.microbatch):
                batch = collated(own[start : start + args.microbatch], left=args.left)
                logits = model(**batch)
                losses = F.cross_entropy(
                    logits.flatten(0, 1), batch["input_ids"].flatten(), reduction="none"
                )
                loss = (losses * batch["attention_mask"].flatten()).sum()
                loss = loss * size / sum(LENGTHS)
                trace.loss(loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0


def collated(samples: Sequence[torch.Tensor], *, left: bool) -> dict[str, torch.Tensor]:
    """Pads samples to the length of the longest one."""
    length = max(map(len, samples))
    shape = (len(samples), length)
    batch = {
        "input_ids": torch.full(shape, PADDING),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "segments": torch.zeros(shape, dtype=torch.int64),
    }
    for row, sample in enumerate(samples):
        kept = slice(length - len(sample), None) if left else slice(len(sample))
        batch["input_ids"][row, kept] = sample
        batch["attention_mask"][row, kept] = 1
        batch["segments"][row, kept][len(sample) // 2 :] = 1
    return batch


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--microbatch", type=int, default=len(LENGTHS))
    parser.add_argument("--ddp", action="store_true")
    parser.add_argument("--left", action="store_true", help="pad on the left")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bug", default="")
    return parser.parse_args(argv)
