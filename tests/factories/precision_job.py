"""A small GPT in FP32 on one process, or under FSDP in mixed precision.

A worker of ``examples/worker_pool.py`` runs ``main``: ``one``, ``fsdp1`` or ``fsdp2``,
and the name of a bug (``loss``: a gradient that is larger by a fifth).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.nn import functional as F

from tests.factories.native_job import GPT, LENGTH, VOCABULARY
from ttrace.frontends import torch_capture


def main(argv: Sequence[str]) -> int:
    """Trains two steps of two micro-batches in all."""
    layout, *bugs = argv
    torch.manual_seed(0)
    model: nn.Module = GPT()
    rank, size = (0, 1) if layout == "one" else (dist.get_rank(), dist.get_world_size())
    if layout == "fsdp1":
        dtypes = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        model = FullyShardedDataParallel(
            model,
            mixed_precision=dtypes,
            device_id=torch.device("cpu"),
            use_orig_params=True,
        )
    elif layout == "fsdp2":
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            output_dtype=torch.float32,
        )
        fully_shard(model, mesh=init_device_mesh("cpu", (size,)), mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            data = torch.randint(VOCABULARY, (2, 4, LENGTH + 1), generator=generator)
            own = data[rank::size]
            for tokens in own:
                logits = model(tokens[:, :-1]).float()
                loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
                trace.loss(loss)
                factor = 1.2 if "loss" in bugs else 1.0
                (loss * factor / len(own)).backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return 0
