"""When a step clips its gradients: once, behind its last backward, or before it."""

import weakref
from collections.abc import Mapping

import torch

from ttrace.frontends.torch_parts.tensors import local_values
from ttrace.ir.step_notes import clips_text


class Remembered:
    """A gradient and the state of its memory, without keeping either alive."""

    __slots__ = ("_tensor", "_version")

    def __init__(self, tensor: torch.Tensor):
        self._tensor = weakref.ref(tensor)
        # What wraps another tensor is not changed itself, its values are.
        held = local_values(tensor)
        self._version = -1 if held.is_inference() else held._version

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Remembered)
            and self._tensor() is other._tensor()
            and self._tensor() is not None
            and self._version == other._version
        )


Gradients = Mapping[int, Remembered]
"""Gradients as they were at some time, by ``id()`` of their parameters."""


class ClipTimes:
    """Counts the clips of a step, and those that a backward follows.

    Gradients that a clip left are other ones, or have changed, when the next clip
    begins or the optimizer steps, if a backward has added to them.
    """

    def __init__(self):
        self._num_clips = 0
        self._num_early = 0
        self._is_open = False
        self._left: Gradients | None = None
        self._has_been_seen = False

    def before(self, gradients: Gradients) -> None:
        """A clip begins."""
        if self._left is not None and gradients != self._left:
            self._num_early += 1
        self._num_clips += 1
        self._is_open = True
        self._left = None

    def after(self, gradients: Gradients) -> None:
        """A clip has ended; nothing happens where none that counts has begun."""
        if self._is_open:
            self._left, self._is_open = gradients, False

    def of_step(self, gradients: Gradients) -> str | None:
        """What is to be said of the step that the optimizer takes; then forgets it.

        None where no clip has ever been seen: it may be done by hand.
        """
        if self._left is not None and gradients != self._left:
            self._num_early += 1
        self._has_been_seen = self._has_been_seen or bool(self._num_clips)
        text = clips_text(self._num_clips, self._num_early)
        self._num_clips = self._num_early = 0
        self._left = None
        return text if self._has_been_seen else None
