"""The learning rate of a chain of optax, as far as its last links say it.

``optax.adamw(1e-3)`` and ``optax.sgd(schedule)`` end in links that multiply the update:
``scale`` and ``scale_by_schedule``. What these are made with is held by the functions
they are; there is no other place to read it. Where a chain ends otherwise, or a wrapper
is around it, nothing is said.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp

_CHAIN = "chain.<locals>.update_fn"
_WITH_EXTRA_ARGS = "with_extra_args_support.<locals>.update"
_SCALE = "scale.<locals>.update_fn"
_SCHEDULE = "scale_by_schedule.<locals>.update_fn"


def chained_learning_rate(update: Callable[..., Any], state: Any) -> Any | None:
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


def _links(
    update: Callable[..., Any], state: Any
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """The links of a chain in their order: name, what each holds, and its state."""
    is_of_optax = str(getattr(update, "__module__", "")).split(".")[0] == "optax"
    if not (inspect.isfunction(update) and is_of_optax):
        yield "", {}, state
        return
    held = dict(inspect.getclosurevars(update).nonlocals)
    if update.__qualname__ == _WITH_EXTRA_ARGS:
        _, inner = held["tx"][:2]  # its field may be tapped at this moment
        yield from _links(inner, state)
    elif update.__qualname__ == _CHAIN and len(held["update_fns"]) == len(state):
        for link, own_state in zip(held["update_fns"], state, strict=True):
            yield from _links(link, own_state)
    else:
        yield update.__qualname__, held, state
