"""A patch for the Megatron example: every rank prints what each step computes.

Checksums of the gradient buffers before the optimizer's step, of parameters and
optimizer state after it, and the number of collectives since the model was built: for
runs that must be the same bit for bit.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist


def after_wrap(args, config, chunks, optimizer) -> None:
    """Wraps the step of this optimizer; nothing else is changed."""
    original = optimizer.step
    num_earlier = _num_collectives()

    @functools.wraps(original)
    def step():
        buffers = [
            buffer
            for chunk in chunks
            for buffer in chunk.buffers + chunk.expert_parallel_buffers
        ]
        print("gradients", _checksum(buffer.grad_data for buffer in buffers))
        print("collectives before the step", _num_collectives() - num_earlier)
        result = original()
        parameters = [p for chunk in chunks for p in chunk.parameters()]
        print("parameters", _checksum(parameters))
        print("state", _checksum(_state(optimizer)))
        print("collectives after the step", _num_collectives() - num_earlier)
        return result

    optimizer.step = step


def _state(optimizer) -> Iterable[torch.Tensor]:
    for link in optimizer.chained_optimizers:
        for group in link.optimizer.param_groups:
            for updated in group["params"]:
                yield updated
                for _, value in sorted(link.optimizer.state.get(updated, {}).items()):
                    if isinstance(value, torch.Tensor):
                        yield value


def _checksum(tensors: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _num_collectives() -> int:
    """Of all process groups that exist now."""
    groups: list[Any] = list(dist.distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)
