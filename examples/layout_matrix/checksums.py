"""A patch for the Megatron example: every rank prints what each step computes.

Checksums of the outputs of the model chunks and of the gradient buffers before the
optimizer's step, of parameters and optimizer state after it, of the parameters at the
end, and the number of collectives since the model was built: for runs that must be the
same bit for bit.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

PREFIX = "bits"
"""First word of every line that is printed here."""

_NUM_EARLIER_COLLECTIVES = "_num_collectives_before_checksums"


def after_wrap(args: Any, config: Any, chunks: list[Any], optimizer: Any) -> None:
    """Watches the chunks, and wraps the step of this optimizer; changes nothing."""
    setattr(args, _NUM_EARLIER_COLLECTIVES, _num_collectives())
    outputs: list[str] = []
    for chunk in chunks:
        chunk.register_forward_hook(
            lambda module, inputs, output: outputs.append(_checksum([output]))
        )
    original = optimizer.step

    @functools.wraps(original)
    def step():
        buffers = [
            buffer
            for chunk in chunks
            for buffer in chunk.buffers + chunk.expert_parallel_buffers
        ]
        _say("outputs", *outputs)
        outputs.clear()
        _say("gradients", _checksum(buffer.grad_data for buffer in buffers))
        _say("collectives before the optimizer", _new_collectives(args))
        result = original()
        _say("parameters", _checksum(_parameters(chunks)))
        _say("state", _checksum(_state(optimizer)))
        _say("collectives after the optimizer", _new_collectives(args))
        return result

    optimizer.step = step


def after_training(args: Any, chunks: list[Any]) -> None:
    """Says what the run leaves behind."""
    _say("final parameters", _checksum(_parameters(chunks)))
    _say("collectives at the end", _new_collectives(args))


def _say(what: str, *values: object) -> None:
    print(f"{PREFIX} {what}:", *values)


def _parameters(chunks: Iterable[torch.nn.Module]) -> Iterable[torch.Tensor]:
    return (parameter for chunk in chunks for parameter in chunk.parameters())


def _state(optimizer: Any) -> Iterable[torch.Tensor]:
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


def _new_collectives(args: Any) -> int:
    return _num_collectives() - getattr(args, _NUM_EARLIER_COLLECTIVES)


def _num_collectives() -> int:
    """Of all process groups that exist now."""
    groups: list[Any] = list(dist.distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)
