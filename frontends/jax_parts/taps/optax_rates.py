"""The learning rate of a chain of optax, as far as its last links say it.

``optax.adamw(1e-3)`` and ``optax.sgd(schedule)`` end in links that multiply the update:
``scale`` and ``scale_by_schedule``. Where a chain ends otherwise, or a wrapper is
around it, nothing is said; ``optax.MultiSteps`` and ``optax.apply_if_finite`` are none,
for what they return is the update of their optimizer.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from ttrace.frontends.jax_parts.taps.optax_closures import (
    CHAIN,
    IF_FINITE,
    NAMED_CHAIN,
    Update,
    accumulated_optimizer,
    accumulator_of,
    held_by,
    unwrapped,
    update_of,
)

_SCALE = "scale.<locals>.update_fn"
_SCHEDULE = "scale_by_schedule.<locals>.update_fn"


def chained_learning_rate(update: Update, state: Any) -> Any | None:
    """By what the last links multiply the update, without its sign.

    Args:
        update: Of the transformation.
        state: Before the step.

    Returns:
        A scalar, traced where the state is; None where the chain does not end in such
        links.
    """
    factors = []
    for name, held, own_state in reversed(list(_links(update, state))):
        if name == _SCALE:
            factors.append(held["step_size"])
        elif name == _SCHEDULE:
            factors.append(held["step_size_fn"](own_state.count))
        else:
            break
    if not factors:
        return None
    rate = jnp.asarray(factors[0])
    for factor in factors[1:]:
        rate = rate * factor
    return jnp.abs(rate)


def _links(update: Update, state: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """The links of a chain in their order: name, what each holds, and its state."""
    update = unwrapped(update)
    accumulator = accumulator_of(update)
    inner = None if accumulator is None else accumulated_optimizer(accumulator)
    held = held_by(update)
    if inner is not None and hasattr(state, "inner_opt_state"):
        yield from _links(inner, state.inner_opt_state)
    elif held is None:
        yield "", {}, state
    elif update.__qualname__ == CHAIN and len(held["update_fns"]) == len(state):
        for link, own_state in zip(held["update_fns"], state, strict=True):
            yield from _links(link, own_state)
    elif update.__qualname__ == NAMED_CHAIN:
        for name, link in held["transforms"]:
            yield from _links(update_of(link), state[name])
    elif update.__qualname__ == IF_FINITE:
        yield from _links(update_of(held["inner"]), state.inner_state)
    else:
        yield update.__qualname__, held, state
