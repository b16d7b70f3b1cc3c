"""Whether the weights of an attention are numbers of a coarse dtype.

What an attention returns is its weights times values that are known: where a query sees
no more keys than a head has elements, these say the weights.
"""

import ml_dtypes
import numpy as np

_LEAST_WEIGHTS = 64
"""Weights that must be known."""

_SMALLEST = 1e-3
"""Of a weight that is looked at; smaller ones are known less well."""

_SPACING = 2.0**-8
"""Between numbers of bfloat16, relative."""

_COARSE = 0.05
"""Mean distance from a number of bfloat16, over the spacing; of any others 1/4."""

_LEAST_CONDITION = 1e-3
"""Smallest singular value of values over the largest, of those that say weights."""


def are_coarse(
    made: np.ndarray, value: np.ndarray, seen: np.ndarray, head_size: int
) -> bool | None:
    """Whether all weights that can be known are numbers of bfloat16.

    Or their ratios to the largest one of a query are: its exponentials are rounded
    then, and their sum is not.

    Args:
        made: What one sample's attention returns, ``[tokens, heads * head_size]``.
        value: Its values, ``[tokens, heads of keys * head_size]``; heads are repeated
            each in a row.
        seen: bool, ``[tokens, tokens]``: which keys each query sees.
        head_size: Elements of a head.

    Returns:
        None where too few can be known.
    """
    heads = made.reshape(len(made), -1, head_size)
    values = value.reshape(len(value), -1, head_size)
    values = np.repeat(values, heads.shape[1] // values.shape[1], axis=1)
    weights: list[np.ndarray] = []
    for query, keys in enumerate(seen):
        number = int(keys.sum())
        if not 1 < number <= head_size:
            continue
        for head in range(heads.shape[1]):
            known = values[keys, head].T
            found, _, rank, sizes = np.linalg.lstsq(
                known, heads[query, head], rcond=None
            )
            if rank == number and sizes[-1] >= _LEAST_CONDITION * sizes[0]:
                weights.append(found)
    if not weights:
        return None
    ratios = [np.delete(each, each.argmax()) / each.max() for each in weights]
    forms = [_far_from_coarse(np.concatenate(form)) for form in (weights, ratios)]
    known = [distance for distance in forms if distance is not None]
    return min(known) < _COARSE if known else None


def _far_from_coarse(weights: np.ndarray) -> float | None:
    """The mean distance from numbers of bfloat16, over their spacing."""
    whole = weights[np.abs(weights) > _SMALLEST]
    if whole.size < _LEAST_WEIGHTS:
        return None
    rounded = whole.astype(ml_dtypes.bfloat16).astype(np.float64)
    return float((np.abs(whole - rounded) / (np.abs(whole) * _SPACING)).mean())
