"""Attention as it is written down, with the traits that implementations differ in.

Vaswani et al., arXiv:1706.03762, section 3.2; rotary positions: Su et al.,
arXiv:2104.09864, section 3.2.2; grouped heads: Ainslie et al., arXiv:2305.13245.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

_MASKED = float(np.finfo(np.float32).min)
"""A score that is masked: rows of which all are then see all alike, not nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary positions, counted from 0.

    Attributes:
        base: Of the frequencies.
        in_pairs: Element 2i turns with 2i + 1; else i with i + half.
        rounded: What is rounded to bfloat16: nothing, ``angles``, ``tables`` (the
            sines and cosines) or ``both``.
    """

    base: float = 10000.0
    in_pairs: bool = False
    rounded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What an attention is like.

    Attributes:
        head_size: Elements of a head.
        scale: What scores are multiplied by.
        rotary: How queries and keys are turned; None if they are not.
        is_causal: A query sees keys up to its own.
        keys: Which keys count besides: ``all``, ``tokens`` (those that are no padding),
            ``padding`` (the others) or ``given`` (as a mask says that the module is
            given).
        is_tiled: Heads of keys are repeated as a whole (0 1 0 1); else each in a row.
        is_interleaved: Neighbouring features are of different heads; else of one.
    """

    head_size: int
    scale: float
    rotary: Rotary | None = None
    is_causal: bool = True
    keys: str = "all"
    is_tiled: bool = False
    is_interleaved: bool = False


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    traits: Traits,
    keys: np.ndarray | None,
) -> np.ndarray:
    """One sample's attention.

    Args:
        query: ``[tokens, heads * head_size]``.
        key: ``[tokens, heads of keys * head_size]``.
        value: As ``key``.
        traits: What it is like.
        keys: bool, ``[queries or 1, keys]``: which are seen; None for all.

    Returns:
        As ``query``.
    """
    num_tokens = len(query)
    if traits.is_interleaved:
        q, k, v = (
            x.reshape(num_tokens, traits.head_size, -1).swapaxes(1, 2)
            for x in (query, key, value)
        )
    else:
        q, k, v = (
            x.reshape(num_tokens, -1, traits.head_size) for x in (query, key, value)
        )
    if traits.rotary is not None:
        q, k = (turned(x, traits.rotary) for x in (q, k))
    times = q.shape[1] // k.shape[1]
    if times > 1 and traits.is_tiled:
        k, v = (np.tile(x, (1, times, 1)) for x in (k, v))
    elif times > 1:
        k, v = (np.repeat(x, times, axis=1) for x in (k, v))
    scores = np.einsum("qad,kad->aqk", q, k, optimize=True) * traits.scale
    scores = np.where(seen_keys(num_tokens, traits, keys), scores, _MASKED)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    made = np.einsum("aqk,kad->qad", weights, v, optimize=True)
    if traits.is_interleaved:
        made = made.swapaxes(1, 2)
    return made.reshape(num_tokens, -1)


def seen_keys(num_tokens: int, traits: Traits, keys: np.ndarray | None) -> np.ndarray:
    """Which keys each query sees: bool, ``[queries, keys]``; arguments as above."""
    seen = np.ones((num_tokens, num_tokens), bool)
    if traits.is_causal:
        seen = np.tril(seen)
    return seen if keys is None else seen & keys


def turned(x: np.ndarray, rotary: Rotary) -> np.ndarray:
    """Heads ``[tokens, heads, head_size]``, turned by their positions."""
    num_tokens, _, size = x.shape
    frequencies = rotary.base ** -(np.arange(0, size, 2) / size)
    are_rounded = rotary.rounded in ("angles", "both")
    if are_rounded:
        frequencies = _rounded(frequencies)
    angles = np.arange(num_tokens)[:, None] * frequencies
    if are_rounded:
        positions = _rounded(np.arange(num_tokens, dtype=np.float64))
        angles = _rounded(positions[:, None] * frequencies)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    if rotary.rounded in ("tables", "both"):
        cos, sin = _rounded(cos), _rounded(sin)
    if rotary.in_pairs:
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = x[..., : size // 2], x[..., size // 2 :]
    one, other = first * cos - second * sin, second * cos + first * sin
    if rotary.in_pairs:
        return np.stack((one, other), axis=-1).reshape(x.shape)
    return np.concatenate((one, other), axis=-1)


def _rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)
