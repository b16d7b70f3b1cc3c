"""A small GPT under every parallelism of torch's own, with the bugs of some of them.

A worker of ``examples/worker_pool.py`` runs ``main``, or ``python -m`` under torchrun.
README's plain lines: no description, no dims text, no scales.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed._composable.replicate_with_fsdp import (
    replicate as replicate_as_fsdp,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F

from ttrace.frontends import torch_capture

WIDTH, HEADS, VOCABULARY, LENGTH = 16, 4, 32, 8
MICROBATCHES, SAMPLES = 4, 2


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # -1: under tensor parallelism each rank has some of the heads.
        q, k, v = (
            part(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(WIDTH), Attention()
        self.ln2, self.mlp = nn.LayerNorm(WIDTH), MLP()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def main(argv: Sequence[str]) -> int:
    """Trains two steps: layout, and the name of a bug."""
    layout, bug = argv[0], (argv[1] if len(argv) > 1 else "")
    torch.manual_seed(0)
    plain = GPT()
    model, share, shares = _wrapped(plain, layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            shape = (MICROBATCHES, SAMPLES, LENGTH + 1)
            data = torch.randint(VOCABULARY, shape, generator=generator)
            own = data[share::shares]
            for tokens in own:
                called = plain if bug == "bypassed" else model
                logits = called(tokens[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
                trace.loss(loss)
                scaled = loss / len(own)
                (scaled / shares if bug == "divided-twice" else scaled).backward()
            trace.main_grads()
            _clip(model, is_local=bug == "local-norm")
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0


def _clip(model: nn.Module, *, is_local: bool) -> None:
    limit = 0.1
    if isinstance(model, FSDP) and not is_local:
        model.clip_grad_norm_(limit)
        return
    # torch's own function refuses gradients on several meshes, as FSDP with TP has.
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]
    squares = [g.square().sum() for g in (local if is_local else whole)]
    factor = min(1.0, limit / (torch.stack(squares).sum().sqrt().item() + 1e-6))
    for gradient in local:
        gradient.mul_(factor)


def _wrapped(model: GPT, layout: str) -> tuple[nn.Module, int, int]:
    """The model laid out, and this rank's place among those with data of their own."""
    if layout.startswith("one"):
        if layout == "one-spare":
            model.spare = nn.Linear(3, 3)
        return model, 0, 1
    rank, size = dist.get_rank(), dist.get_world_size()
    if layout == "ddp":
        return nn.parallel.DistributedDataParallel(model), rank, size
    if layout == "replicate":
        return replicate(model), rank, size
    if layout == "replicate-fsdp":
        for part in (*model.blocks, model):
            replicate_as_fsdp(part, mesh=init_device_mesh("cpu", (size,)))
        return model, rank, size
    if layout.startswith("fsdp1"):
        kind, _, strategy = layout.partition(":")
        names = ("replicate", "shard")
        both = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=names)
        wrapped = FSDP(
            model,
            auto_wrap_policy=ModuleWrapPolicy({Block}),
            device_id=torch.device("cpu"),
            use_orig_params=kind == "fsdp1",
            sharding_strategy=ShardingStrategy[strategy or "FULL_SHARD"],
            device_mesh=both if "HYBRID" in strategy else None,
        )
        return wrapped, rank, size
    if layout == "fsdp-dim1":
        mesh = init_device_mesh("cpu", (size,))
        last = _fully_sharded(
            model, mesh, shard_placement_fn=lambda p: Shard(p.dim() - 1)
        )
        return last, rank, size
    if layout == "fsdp-list":
        mesh = init_device_mesh("cpu", (size,))
        model.spare = nn.Linear(3, 3)  # used by no loss
        fully_shard([model.norm, model.head], mesh=mesh)
        fully_shard(list(model.blocks), mesh=mesh, reshard_after_forward=False)
        fully_shard(model, mesh=mesh)
        return model, rank, size
    if layout == "fsdp":
        return _fully_sharded(model, init_device_mesh("cpu", (size,))), rank, size
    if layout == "hsdp":
        names = ("replicate", "shard")
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=names)
        return _fully_sharded(model, mesh), rank, size
    tp = size if layout in ("tp", "sp") else 2
    mesh = init_device_mesh("cpu", (size // tp, tp), mesh_dim_names=("dp", "tp"))
    _tensor_parallel(model, mesh["tp"], is_sequence=layout.startswith("sp"))
    dp = mesh["dp"]
    if layout.endswith("-fsdp"):
        _fully_sharded(model, dp)
    return model, dp.get_local_rank(), dp.size()


def _fully_sharded(model: GPT, mesh: DeviceMesh, **options: Any) -> GPT:
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def _tensor_parallel(model: GPT, mesh: DeviceMesh, *, is_sequence: bool) -> None:
    outside = Shard(1) if is_sequence else Replicate()
    plan: dict[str, ParallelStyle] = {
        "attn.q": ColwiseParallel(),
        "attn.k": ColwiseParallel(),
        "attn.v": ColwiseParallel(),
        "attn.proj": RowwiseParallel(output_layouts=outside),
        "mlp.fc1": ColwiseParallel(),
        "mlp.fc2": RowwiseParallel(output_layouts=outside),
    }
    whole: dict[str, ParallelStyle] = {
        "head": ColwiseParallel(output_layouts=Replicate())
    }
    if is_sequence:
        taken = PrepareModuleInput(
            input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
        )
        plan |= {"attn": taken, "mlp": taken}
        plan |= {"ln1": SequenceParallel(), "ln2": SequenceParallel()}
        whole = {
            "tok": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        }
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    parallelize_module(model, mesh, whole)


if __name__ == "__main__":
    import os
    import sys

    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    status = main(sys.argv[1:])
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.exit(status)
