"""Reads off a gradient of logits which targets a cross entropy was given.

For a token of weight w and target t its gradient is w (softmax(logits) - onehot(t)).
"""

from dataclasses import dataclass

import numpy as np

_MOST_OFF = 1e-2
"""Of the norm of a gradient, that targets and weights need not give."""

_SURE = 1e-6
"""What a token may lack of a probability of one, and have no gradient for that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What a cross entropy learns of each token.

    Attributes:
        ids: The targets, int64, -1 where a token does not count; of the logits' shape
            without the last dim.
        weights: What each token's loss is multiplied by; 0 where it does not count.
    """

    ids: np.ndarray
    weights: np.ndarray


def read_targets(logits: np.ndarray, gradient: np.ndarray) -> Targets | None:
    """The targets and weights that give a gradient; None where none do.

    Args:
        logits: ``[..., classes]``.
        gradient: Of the loss with respect to them.
    """
    if logits.ndim < 2 or logits.shape != gradient.shape or logits.shape[-1] < 2:
        return None
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
    counts = gradient.any(axis=-1)
    if not counts.any() or (probabilities.max(axis=-1)[~counts] > 1 - _SURE).any():
        return None
    ids = gradient.argmin(axis=-1)
    np.put_along_axis(
        probabilities,
        ids[..., None],
        np.take_along_axis(probabilities, ids[..., None], axis=-1) - 1,
        axis=-1,
    )
    squares = np.square(probabilities).sum(axis=-1)
    weights = (gradient * probabilities).sum(axis=-1) / np.where(squares, squares, 1)
    rest = np.linalg.norm(gradient - weights[..., None] * probabilities)
    if rest > _MOST_OFF * np.linalg.norm(gradient) or (weights[counts] <= 0).any():
        return None
    return Targets(
        ids=np.where(counts, ids, -1), weights=np.where(counts, weights, 0.0)
    )
