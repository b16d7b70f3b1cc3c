"""Backward passes that give no parameter a gradient: penalties, forces, saliency.

``torch.autograd.grad(out, x, create_graph=True)`` runs through modules whose gradients
the training's own backward makes afterwards, with other values. What a module is given
by the former is no gradient of the loss.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

from ttrace.ir.tensor_id import TensorId

ONLY_ASIDE = (
    "no backward that gives parameters their gradients came through, but only one for "
    "the gradients of other tensors (torch.autograd.grad)"
)


class SidePasses:
    """Tells gradients of such passes from those of the training.

    Attributes:
        is_running: Such a pass runs now.
    """

    def __init__(self):
        self.is_running = False
        self._aside: dict[TensorId, None] = {}
        self._trained: set[TensorId] = set()

    def takes(self, id_: TensorId) -> bool:
        """Whether a gradient that arrives now is of such a pass.

        Args:
            id_: Of the gradient.
        """
        if self.is_running:
            self._aside[id_] = None
        else:
            self._trained.add(id_)
        return self.is_running

    def take_left(self) -> list[TensorId]:
        """Gradients of which no other pass made any; the step ends."""
        left = [id_ for id_ in self._aside if id_ not in self._trained]
        self._aside.clear()
        self._trained.clear()
        return left


@contextlib.contextmanager
def observed_side_passes(passes: SidePasses) -> Iterator[None]:
    """Tells of each such pass that begins and ends, while it lasts.

    A pass within another one is of that: some functions compute their backward so.
    """
    plain = getattr(torch.autograd, _RUN, None)
    if plain is None:  # of another release: all passes are taken for the training's
        yield
        return

    @functools.wraps(plain)
    def observed(*args: Any, **kwargs: Any) -> Any:
        is_outermost = torch._C._current_graph_task_id() == _NO_PASS
        if not is_outermost or not _is_aside(args, kwargs):
            return plain(*args, **kwargs)
        passes.is_running = True
        try:
            return plain(*args, **kwargs)
        finally:
            passes.is_running = False

    setattr(torch.autograd, _RUN, observed)
    try:
        yield
    finally:
        if getattr(torch.autograd, _RUN) is observed:
            setattr(torch.autograd, _RUN, plain)


_RUN: str = "_engine_run_backward"
"""What ``backward()`` and ``grad()`` call, however a script has imported them."""

_NO_PASS = -1

_INPUTS = 4
"""Place of the tensors whose gradients are asked for; empty for all leaves."""


def _is_aside(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether gradients are asked for, and none of them of a parameter."""
    inputs = args[_INPUTS] if len(args) > _INPUTS else kwargs.get("inputs")
    return bool(inputs) and not any(
        isinstance(each, torch.nn.Parameter) for each in inputs
    )
