"""What transformations of optax hold: there is no other place to read it.

They are functions, and keep in their closures what they were made with.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optax

CHAIN = "chain.<locals>.update_fn"
INJECTED = "inject_hyperparams.<locals>.wrapped_transform.<locals>.update_fn"
_MASKED = "masked.<locals>.update_fn"
_PARTITION = "partition.<locals>.update_fn"
NAMED_CHAIN = "named_chain.<locals>.update_fn"
IF_FINITE = "apply_if_finite.<locals>.update"
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
    """The update of a transformation: the field, which may be tapped at this moment.

    ``optax.MultiSteps`` has a method, and so may what others made; chains take both.
    """
    if isinstance(transformation, optax.GradientTransformation):
        return tuple(transformation)[1]
    return transformation.update


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One of the transformations that an optimizer is made of.

    Attributes:
        name: Of the function of optax that made it; empty for one that is not optax's.
        held: What it was made with.
        labels: Of the parameters that it is for, as ``optax.multi_transform`` has them,
            outermost first; empty where it is for all.
    """

    name: str
    held: Mapping[str, Any]
    labels: tuple[str, ...] = ()


def links(update: Update, labels: tuple[str, ...] = ()) -> Iterator[Link]:
    """All links that a transformation is made of, in their order.

    Those of chains, of what is masked or for some parameters only, and of what is given
    accumulated gradients.

    Args:
        update: Of the transformation.
        labels: Of the parameters that it is for.
    """
    update = unwrapped(update)
    accumulator = accumulator_of(update)
    if accumulator is not None:
        inner = accumulated_optimizer(accumulator)
        if inner is not None:
            yield from links(inner, labels)
            return
    held, name = held_by(update), getattr(update, "__qualname__", "")
    if held is None:
        yield Link(name="", held={}, labels=labels)
    elif name == CHAIN:
        for link in held["update_fns"]:
            yield from links(link, labels)
    elif name == NAMED_CHAIN:
        for _, link in held["transforms"]:
            yield from links(update_of(link), labels)
    elif name in (_MASKED, IF_FINITE):
        yield from links(update_of(held["inner"]), labels)
    elif name == _PARTITION:
        for label, link in held["transforms"].items():
            yield from links(update_of(link), (*labels, str(label)))
    else:
        yield Link(name=name.partition(".")[0], held=held, labels=labels)
