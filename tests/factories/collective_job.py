"""Every collective of torch.distributed, in modules, forward and backward.

A worker of ``examples/worker_pool.py`` runs ``main`` with a case, and prints
a checksum of all that collectives gave.
"""

import hashlib
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import nn

from ttrace.frontends import torch_capture

SIZE = 8

seen: list[torch.Tensor] = []


class ReducedBackward(torch.autograd.Function):
    """The f of Megatron's paper: nothing forward, a sum backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class Copied(nn.Module):
    def forward(self, x):
        return ReducedBackward.apply(x)


class Every(nn.Module):
    """Runs each collective once."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SIZE, SIZE)
        self.copied = Copied()

    def forward(self, x):
        y = self.copied(self.linear(x))
        self.exchange(y.detach())
        return y

    def exchange(self, given):
        size, rank = dist.get_world_size(), dist.get_rank()

        def own():
            return given.clone()

        def empty(*shape):
            return torch.empty(*(shape or given.shape))

        total, product, largest = own(), own(), own()
        dist.all_reduce(total)
        dist.all_reduce(product, op=dist.ReduceOp.PRODUCT)
        work = dist.all_reduce(largest, op=dist.ReduceOp.MAX, async_op=True)
        root, sent = own(), own()
        dist.reduce(root, dst=1)
        dist.broadcast(sent, src=1)
        assert work is not None
        work.wait()
        several = [empty() for _ in range(size)]
        dist.all_gather(several, own())
        joined = empty(size * len(given), SIZE)
        dist.all_gather_into_tensor(joined, own())
        gathered = [empty() for _ in range(size)] if rank == 0 else None
        dist.gather(own(), gathered, dst=0)
        parts = [given + i for i in range(size)]
        scattered = empty()
        dist.scatter(scattered, parts if rank == 0 else None, src=0)
        part = empty(len(given) // size, SIZE)
        dist.reduce_scatter_tensor(part, own())
        of_list = empty()
        dist.reduce_scatter(of_list, parts)
        exchanged = [empty() for _ in range(size)]
        dist.all_to_all(exchanged, parts)
        rows = [[1, 3], [2, 2]][rank] if size == 2 else [1] * size
        back = [[1, 2], [3, 2]][rank] if size == 2 else [1] * size
        unequal = empty(sum(back), SIZE)
        dist.all_to_all_single(unequal, own()[: sum(rows)], back, rows)
        summed = functional.all_reduce(own(), "sum", list(range(size))) * 1
        cut = functional.reduce_scatter_tensor(own(), "sum", 0, list(range(size))) * 1
        with torch.inference_mode():
            inferred = own()
            dist.all_reduce(inferred)
        seen.extend([total, product, largest, sent, *several, joined, scattered, part])
        seen.extend([of_list, *exchanged, unequal, summed, cut, inferred])
        seen.extend([*(gathered or ()), *([root] if rank == 1 else ())])


class Mixed(Every):
    """Rank 0 sums what the others take the maximum of."""

    def exchange(self, given):
        op = dist.ReduceOp.SUM if dist.get_rank() == 0 else dist.ReduceOp.MAX
        dist.all_reduce(given.clone())
        dist.all_reduce(given.clone(), op=op)


class Lost(Every):
    """Nobody waits."""

    def exchange(self, given):
        self.kept = dist.all_reduce(given.clone(), async_op=True)


class Groups(Every):
    """Sums over pairs of neighbours, or, by mistake, over the other pairs."""

    def __init__(self, pairs):
        super().__init__()
        self.groups = [dist.new_group(pair) for one in pairs for pair in one]

    def exchange(self, given):
        groups = [g for g in self.groups if isinstance(g, dist.ProcessGroup)]
        own = [g for g in groups if dist.get_rank(g) >= 0]
        dist.all_reduce(given.clone(), group=own[0])


def main(argv: Sequence[str]) -> int:
    """Trains two steps of two micro-batches."""
    seen.clear()
    torch.manual_seed(dist.get_rank())
    neighbours, others = ([0, 1], [2, 3]), ([0, 2], [1, 3])
    model = {
        "every": Every,
        "mixed": Mixed,
        "lost": Lost,
        "groups": lambda: Groups((neighbours, others)),
        "wrong-group": lambda: Groups((others, neighbours)),
    }[argv[0]]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            for _ in range(2):
                y = model(torch.randn(4, SIZE))
                y.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            with trace.paused():
                dist.all_reduce(torch.ones(1))
            trace.step()
    digest = hashlib.sha256()
    for tensor in (*seen, *model.parameters()):
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    print("bits", digest.hexdigest())
    dist.barrier()
    return 0
