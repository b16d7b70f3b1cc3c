"""Gates: taps at which a program takes another value in place of its own.

What comes in mirrors what goes out: the value of a gate is an argument of the program
with the type of the extra output that its tap has, beside a flag that says for every
iteration of the loops around it whether it counts. Both are taken apart on the way in
as the extra outputs are put together on the way out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.captured import Plane

Pair = tuple[Any, Any]
"""A value and its flag, as one jaxpr is given them: with a dim for every loop in it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """A tap that may have another value.

    Attributes:
        event: Position of its event among those of the jaxpr.
        aval: Type of the values, that of the extra output.
        flag: Type of the flags: bool, the dims of the values that count iterations.
    """

    event: int
    aval: Any
    flag: Any

    def closed(self, length: int | None = None) -> Pair:
        """Arguments with which the program keeps its own values.

        Args:
            length: Of the loop around the jaxpr; None where there is none.
        """
        if length is None:
            return private_jax.zeros(self.aval), np.zeros(self.flag.shape, bool)
        aval = private_jax.with_leading_dim(self.aval, length)
        return private_jax.zeros(aval), np.zeros((length, *self.flag.shape), bool)


def gate_of(event: int, plane: Plane, aval: Any) -> Gate:
    """The gate of a tap.

    Args:
        event: Position of its event among those of the jaxpr.
        plane: Where its value leaves the jaxpr.
        aval: Type of that output.
    """
    sizes = zip(plane.dims, aval.shape, strict=False)
    shape = tuple(size for dim, size in sizes if dim is None)
    return Gate(event=event, aval=aval, flag=jax.typeof(np.zeros(shape, bool)))


class Incoming:
    """The pairs of the gates of one jaxpr, in the order of their taps.

    Args:
        pairs: None for a gate that stays closed.
    """

    def __init__(self, pairs: Iterable[Pair | None] = ()):
        self._pairs = iter(pairs)

    def take(self) -> Pair | None:
        """The pair of the next gate; None where it is closed."""
        return next(self._pairs)


class Closed(Incoming):
    """All gates are closed, however many there are."""

    def take(self) -> Pair | None:
        return None


CLOSED = Closed()


def flat(pairs: Iterable[Pair]) -> list[Any]:
    """Pairs as further arguments of a jaxpr."""
    return [part for pair in pairs for part in pair]


def paired(args: Sequence[Any]) -> list[Pair]:
    """Pairs out of further arguments of a jaxpr."""
    return list(zip(args[::2], args[1::2], strict=True))


def passed(x: Any, pair: Pair | None, batch_dims: Sequence[int]) -> Any:
    """What goes on from a tap.

    Args:
        x: What came to it.
        pair: What comes in; its flag is a scalar. None if the gate is closed.
        batch_dims: Where the first dims of the value that comes in lie in ``x``.
    """
    if pair is None:
        return x
    value, flag = pair
    if batch_dims:
        value = jnp.moveaxis(value, range(len(batch_dims)), batch_dims)
    return jax.lax.select(jnp.asarray(flag), value, x)
