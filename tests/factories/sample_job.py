"""One global batch a step, given to a small GPT in micro-batches of any size and order.

A worker of ``examples/worker_pool.py`` runs ``main``, or ``python -m`` under torchrun.
"""

import argparse
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    checkpoint_wrapper,
)
from torch.nn import functional as F

from tests.factories.native_job import GPT, LENGTH, VOCABULARY, Attention
from ttrace.frontends import torch_capture

SAMPLES = 8


class WronglyScaled(Attention):
    """Attention whose logits are of another scale."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part(x).unflatten(-1, (4, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return self.proj(y.transpose(1, 2).flatten(2))


def main(argv: Sequence[str]) -> int:
    """Trains two steps of 8 samples each."""
    args = _arguments(argv)
    rank, size = (dist.get_rank(), dist.get_world_size()) if args.ddp else (0, 1)
    torch.manual_seed(0)
    plain = GPT()
    if args.bug == "attention":
        plain.blocks[1].get_submodule("attn").__class__ = WronglyScaled
    if args.recompute:
        for name, block in list(plain.blocks.named_children()):
            plain.blocks.register_module(name, checkpoint_wrapper(block))
    model: nn.Module = nn.parallel.DistributedDataParallel(plain) if args.ddp else plain
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    generator = torch.Generator().manual_seed(args.seed)
    orders = torch.Generator().manual_seed(17)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            shape = (SAMPLES, LENGTH + 1)
            data = torch.randint(VOCABULARY, shape, generator=generator)
            if args.duplicate:
                data[3, :-1] = data[6, :-1]  # the same inputs, another target
            if args.shuffle:
                data = data[torch.randperm(SAMPLES, generator=orders)]
            own = data[rank::size].split(args.microbatch)
            for tokens in own:
                inputs, targets = tokens[:, :-1], tokens[:, 1:]
                logits = model(inputs)
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
                trace.loss(loss)
                share = 1 if args.bug == "normalisation" else len(own)
                (loss if args.late else loss / share).backward()
            if args.late:
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad /= len(own)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--microbatch", type=int, default=SAMPLES)
    parser.add_argument("--ddp", action="store_true")
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--duplicate", action="store_true")
    parser.add_argument("--late", action="store_true", help="divide after backward")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bug", default="")
    return parser.parse_args(argv)


if __name__ == "__main__":
    import os
    import sys

    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    status = main(sys.argv[1:])
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.exit(status)
