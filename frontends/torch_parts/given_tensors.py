"""Tensors that modules were given and hand on: whose gradient is not theirs alone."""

from collections import Counter
from collections.abc import Iterable

import torch

from ttrace.frontends.torch_parts.gradients import InputEdge, Place


class GivenTensors:
    """What the calls of modules that run now were given."""

    def __init__(self):
        self._places: Counter[Place] = Counter()

    def clear(self) -> None:
        """Forgets calls that never ended: a step begins."""
        self._places.clear()

    def enter(self, edges: tuple[InputEdge, ...]) -> None:
        """A call begins, with such inputs."""
        self._places.update(edge.place for edge in edges)

    def leave(self, edges: tuple[InputEdge, ...]) -> None:
        """A call ends; none of its inputs is given by it any more."""
        for edge in edges:
            self._places[edge.place] -= 1
            if self._places[edge.place] <= 0:
                del self._places[edge.place]

    def among(self, outputs: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Slots of those outputs that a call which still runs was given.

        The gradient of such a tensor is that of all that use it, outside of the module
        around, too. A wrapper that gives that module a copy changes which these are.
        """
        if not self._places:
            return set()
        return {
            slot
            for slot, tensor in outputs
            if tensor.grad_fn is not None
            and (tensor.grad_fn, tensor.output_nr) in self._places
        }
