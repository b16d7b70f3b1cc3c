"""A model of a library, its port, and the mistakes that can be planted in the port."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Weights = dict[str, np.ndarray]
"""The reference's parameters and buffers by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """What can be wrong with a port.

    Attributes:
        name: Passed to the port, which makes it.
        places: Patterns of modules, as the reference has them; the first divergence
            must be of one of them.
    """

    name: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Port:
    """The candidate, ready to be trained.

    Attributes:
        params: What is differentiated, a pytree.
        loss: Gives the loss for parameters and the batch.
        scopes: Names come from named scopes.
    """

    params: Any
    loss: Callable[[Any, tuple[np.ndarray, ...]], Any]
    scopes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LibraryPair:
    """A pair.

    Attributes:
        name: Of both libraries.
        model: Makes the reference.
        batch: What both are given, made by a generator of random numbers.
        loss: The reference's.
        port: Makes the port from the reference's weights and the name of a mistake,
            empty for none.
        mistakes: All that the port knows.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    batch: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    loss: Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], torch.Tensor]
    port: Callable[[Weights, str], Port]
    mistakes: tuple[Mistake, ...]


def mistakes(**places: str) -> tuple[Mistake, ...]:
    """Mistakes by name, with their places apart by spaces."""
    return tuple(
        Mistake(name=name, places=tuple(text.split())) for name, text in places.items()
    )
