"""What transformations of optax hold: there is no other place to read it.

They are functions, and keep in their closures what they were made with.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optax

CHAIN = "chain.<locals>.update_fn"
INJECTED = "inject_hyperparams.<locals>.wrapped_transform.<locals>.update_fn"
_MASKED = "masked.<locals>.update_fn"
_PARTITION = "partition.<locals>.update_fn"
_WITH_EXTRA_ARGS = "with_extra_args_support.<locals>.update"

Update = Callable[..., Any]


def accumulator_of(update: Update) -> optax.MultiSteps | None:
    """What a transformation is a method of, if it adds up mini-steps."""
    owner = getattr(update, "__self__", None)
    return owner if isinstance(owner, optax.MultiSteps) else None


def accumulated_optimizer(accumulator: optax.MultiSteps) -> Update | None:
    """The transformation that is given what was added up; None if it is not known."""
    optimizer = getattr(accumulator, "_opt", None)
    return None if optimizer is None else update_of(optimizer)


def update_of(transformation: Any) -> Update:
    """The field of a transformation, which may be tapped at this moment."""
    return tuple(transformation)[1]


def held_by(update: Update) -> dict[str, Any] | None:
    """The closure of a transformation of optax; None of any other one's."""
    is_of_optax = str(getattr(update, "__module__", "")).split(".")[0] == "optax"
    if not (inspect.isfunction(update) and is_of_optax):
        return None
    return dict(inspect.getclosurevars(update).nonlocals)


def unwrapped(update: Update) -> Update:
    """A transformation without what lets it take further arguments."""
    while getattr(update, "__qualname__", "") == _WITH_EXTRA_ARGS:
        held = held_by(update)
        if held is None:
            break
        update = update_of(held["tx"])
    return update


def links(update: Update) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All links that a transformation is made of: name, and what each holds.

    Those of chains, of what is masked or for some parameters only, and of what is given
    accumulated gradients. One that is not optax's has no name.
    """
    update = unwrapped(update)
    accumulator = accumulator_of(update)
    if accumulator is not None:
        inner = accumulated_optimizer(accumulator)
        if inner is not None:
            yield from links(inner)
            return
    held, name = held_by(update), getattr(update, "__qualname__", "")
    if held is None:
        yield "", {}
    elif name == CHAIN:
        for link in held["update_fns"]:
            yield from links(link)
    elif name == _MASKED:
        yield from links(update_of(held["inner"]))
    elif name == _PARTITION:
        for link in held["transforms"].values():
            yield from links(update_of(link))
    else:
        yield name, held
