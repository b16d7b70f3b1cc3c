"""Part of the noise: an Adam that corrects its bias in float32.

torch computes ``1 - beta ** step`` in double precision. optax, and implementations
whose step is on the device, have it in float32, where the little that is left of 1 in
the first steps is rounded by 1e-5. That is no bug of a port, and shows in parameters
that begin at zero, which are all update. So noise runs take their steps with such a
factor.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ttrace.frontends.torch_parts.guards import guarded


@contextlib.contextmanager
def corrected_in_float32(
    optimizers: Sequence[torch.optim.Optimizer],
) -> Iterator[None]:
    """Has every step's learning rate be what float32 would have made of it.

    Only while an optimizer steps: schedules find the rate as they left it.

    Args:
        optimizers: Any; those without two betas are left alone.
    """
    handles = []
    for optimizer in optimizers:
        rates: list[tuple[dict[str, Any], float]] = []
        handles += [
            optimizer.register_step_pre_hook(_before(rates)),
            optimizer.register_step_post_hook(_after(rates)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rounding_of_correction(betas: tuple[float, float], step: int) -> float:
    """Update with a bias correction in float32, over the one in double precision.

    Args:
        betas: Of the first and of the second moment.
        step: Number of the step; the first is 1.
    """
    exact, rounded = (
        [1 - dtype(beta) ** dtype(step) for beta in betas]
        for dtype in (np.float64, np.float32)
    )
    first, second = (float(r) / float(e) for r, e in zip(rounded, exact, strict=True))
    return second**0.5 / first


def _before(rates: list[tuple[dict[str, Any], float]]):
    @guarded("perturb the bias correction of an optimizer")
    def before(optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        for group in optimizer.param_groups:
            rate, betas = group.get("lr"), group.get("betas")
            if not isinstance(rate, float) or not _are_betas(betas):
                continue
            rates.append((group, rate))
            group["lr"] = rate * rounding_of_correction(betas, _step(optimizer, group))

    return before


def _after(rates: list[tuple[dict[str, Any], float]]):
    @guarded("perturb the bias correction of an optimizer")
    def after(optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        for group, rate in rates:
            group["lr"] = rate
        rates.clear()

    return after


def _are_betas(betas: Any) -> bool:
    return (
        isinstance(betas, (tuple, list))
        and len(betas) == 2
        and all(isinstance(beta, float) and 0 <= beta < 1 for beta in betas)
    )


def _step(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> int:
    """The number of the step that is about to be taken."""
    states = (optimizer.state.get(parameter, {}) for parameter in group["params"])
    return 1 + max((int(state.get("step", 0)) for state in states), default=0)
