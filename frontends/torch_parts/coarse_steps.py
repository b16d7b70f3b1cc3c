"""Part of the noise: optimizers that compute in a coarser dtype than they update.

Muon orthogonalizes its direction in bfloat16. What the cast rounds is amplified by all
that follows it, and comes out otherwise under every layout. Noise of the gradients in
their own dtype does not reach it: most of it is lost in the cast. So noise runs move
every element of what a step casts to a coarser dtype to a neighbouring number of that.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ttrace.frontends.torch_parts.guards import guarded
from ttrace.generate import hash_key

_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}
_CASTS = ("aten::_to_copy", "aten::to")


@contextlib.contextmanager
def perturbed_casts(
    optimizers: Sequence[torch.optim.Optimizer], noise_seed: int
) -> Iterator[None]:
    """Has every cast to a coarser dtype in a step round otherwise.

    Args:
        optimizers: Any.
        noise_seed: Another one gives other signs, the same ones on all ranks.
    """
    handles = []
    modes: list[_PerturbedCasts] = []  # of steps that have not ended
    for number, optimizer in enumerate(optimizers):
        seed, _ = hash_key(f"casts of optimizer {number}", noise_seed)
        generator = torch.Generator().manual_seed(int(seed))
        handles += [
            optimizer.register_step_pre_hook(_before(modes, generator)),
            optimizer.register_step_post_hook(_after(modes)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        _leave(modes)


class _PerturbedCasts(TorchDispatchMode):
    def __init__(self, generator: torch.Generator):
        super().__init__()
        self._generator = generator

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func._schema.name in _CASTS and _is_coarser(made, args[0]):
            return _stepped(made, self._generator)
        return made


def _is_coarser(made: Any, given: Any) -> bool:
    return (
        type(made) is torch.Tensor
        and made.dtype in _BITS
        and given.dtype in (torch.float32, torch.float64)
    )


def _stepped(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every element moved to a neighbouring number; what is not finite, and 0, stay."""
    bits = _BITS[values.dtype]
    steps = torch.randint(0, 2, values.shape, generator=generator, dtype=bits) * 2 - 1
    steps = steps.to(values.device)
    moved = (values.contiguous().view(bits) + steps).view(values.dtype)
    may_move = (values != 0) & (moved != 0) & moved.isfinite() & values.isfinite()
    return torch.where(may_move, moved, values)


def _before(modes: list[_PerturbedCasts], generator: torch.Generator):
    @guarded("perturb the casts of an optimizer")
    def before(optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        mode = _PerturbedCasts(generator)
        mode.__enter__()
        modes.append(mode)

    return before


def _after(modes: list[_PerturbedCasts]):
    @guarded("perturb the casts of an optimizer")
    def after(optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        _leave(modes)

    return after


def _leave(modes: list[_PerturbedCasts]) -> None:
    while modes:
        modes.pop().__exit__(None, None, None)
