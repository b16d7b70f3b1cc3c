"""A patch for the torch examples: every rank prints what each step computes.

Checksums of the gradients that an optimizer is given, of parameters and state after its
step, of parameters and buffers at the end, and the number of collectives since the
model was built: for runs that must be the same bit for bit.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

PREFIX = "bits"
"""First word of every line that is printed here."""

_WATCH = "_checksums_of_optimizers"


def after_build(args: Any, models: list[torch.nn.Module]) -> None:
    """Watches the optimizers of this run, which a library may make later."""
    num_earlier = _num_collectives()

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        _say("gradients", _checksum(p.grad for p in _updated(optimizer)))
        _say("collectives before the optimizer", _num_collectives() - num_earlier)

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        _say("parameters", _checksum(_updated(optimizer)))
        _say("state", _checksum(_state(optimizer)))
        _say("collectives after the optimizer", _num_collectives() - num_earlier)

    handles = (
        register_optimizer_step_pre_hook(before),
        register_optimizer_step_post_hook(after),
    )
    setattr(args, _WATCH, (handles, num_earlier))


def after_training(args: Any, models: list[torch.nn.Module]) -> None:
    """Says what the run leaves behind, and watches no longer."""
    handles, num_earlier = getattr(args, _WATCH)
    for handle in handles:
        handle.remove()
    for model in models:
        _say("final parameters", _checksum(model.parameters()))
        _say("final buffers", _checksum(model.buffers()))
    _say("collectives at the end", _num_collectives() - num_earlier)


def _say(what: str, *values: object) -> None:
    print(f"{PREFIX} {what}:", *values)


def _updated(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])


def _state(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    for updated in _updated(optimizer):
        for _, value in sorted(optimizer.state.get(updated, {}).items()):
            if isinstance(value, torch.Tensor):
                yield value


def _checksum(tensors: Iterable[torch.Tensor | None]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        local: Any = tensor
        if hasattr(local, "to_local"):  # of a DTensor what this rank holds
            local = local.to_local()
        if local is not None:
            flat = local.detach().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _num_collectives() -> int:
    """Of all process groups that exist now."""
    groups: list[Any] = list(dist.distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)
