"""Finds the parts of a tensor whose noise is far below that of the rest; pure.

One Frobenius norm over a joined tensor hides its quiet parts: the key part of a fused
bias is Adam's noise, and behind it a wrong value of the query part does not show. Where
parts lie shows in the noise itself, block by block along a dim.

What is loud must be so throughout. An optimizer such as Adam turns single elements
whose gradient is next to nothing into noise, here in one run and there in another: they
are a part of nothing, and say nothing of where the next one falls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_RATIO = 100.0
"""How much larger the noise of one part must be, element by element."""

_LEAST_INDICES = 8
"""Indices that a range has at least: a few may be loud, or quiet, by chance."""

_LEAST_CARRIERS = 4.0
"""Elements that carry the noise of a loud range, at least: the square of its norm over
that of its largest element."""

_LEAST_DENSITY = 0.05
"""Their share of all elements of the range."""

_LEAST_BLOCKS = 8
"""Blocks in a row that are loud in some run, each of them: that is no chance either."""

_LEAST_EVIDENCE = 14.0
"""That a range is quiet by chance, were it as the loud ones are, has a probability of
at most exp(-14). An element whose gradient is large is quiet in every run: what counts
are elements, not runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNoise:
    """Noise of equal blocks along one dim, in every noise run.

    Attributes:
        block_length: Indices of a block.
        count: Elements of each block.
        norms: float64, ``[runs, blocks]``: of the noise.
        maxima: float64, ``[runs, blocks]``: largest noise of an element.
        floors: float64, ``[blocks]``: what is tolerated without any noise.
    """

    block_length: int
    count: int
    norms: np.ndarray
    maxima: np.ndarray
    floors: np.ndarray


def find_quiet_part(noise: BlockNoise) -> tuple[np.ndarray, float] | None:
    """Which blocks are a part with less noise than the others, if any.

    Returns:
        bool, ``[blocks]``: the quiet ones, and by how much the others are louder; None
        where the noise is all of a kind.
    """
    is_below = _is_below(noise)
    is_quiet = _long_runs(is_below, _LEAST_INDICES, noise.block_length)
    for start, stop in _runs(~is_quiet):
        if not _is_loud_throughout(noise, start, stop, is_below):
            is_quiet[start:stop] = True
    if is_quiet.all():
        return None
    least_indices = _least_indices_of_evidence(noise, ~is_quiet, is_below)
    is_quiet = _long_runs(is_quiet, least_indices, noise.block_length)
    if not is_quiet.any():
        return None
    ratio = _level(noise, ~is_quiet) / _level(noise, is_quiet)
    return (is_quiet, ratio) if ratio > LEAST_RATIO else None


def _least_indices_of_evidence(
    noise: BlockNoise, is_loud: np.ndarray, is_below: np.ndarray
) -> float:
    """How long a quiet range must be so that it is not so by chance.

    By the share of quiet blocks in the loud ranges, or, where blocks are large, by that
    of quiet elements, whichever says more.
    """
    share_of_blocks = max(is_below[is_loud].sum(), 1) / (is_loud.sum() + 1)
    by_blocks = noise.block_length * _LEAST_EVIDENCE / -np.log(share_of_blocks)
    by_elements = _LEAST_EVIDENCE / -np.log1p(-min(_density(noise, is_loud), 0.99))
    return float(min(by_blocks, by_elements))


def _is_below(noise: BlockNoise) -> np.ndarray:
    """bool, ``[blocks]``: far below the loudest one; all where there is no noise."""
    levels = np.maximum(noise.norms.max(axis=0), noise.floors)
    if not np.isfinite(levels).all() or not levels.max() > 0:
        return np.ones(levels.size, bool)
    return levels < levels.max() / LEAST_RATIO


def _long_runs(
    is_chosen: np.ndarray, least_indices: float, block_length: int
) -> np.ndarray:
    """The chosen blocks that lie in a row of so many indices."""
    is_long = np.zeros(is_chosen.size, bool)
    for start, stop in _runs(is_chosen):
        is_long[start:stop] = (stop - start) * block_length >= least_indices
    return is_long


def _is_loud_throughout(
    noise: BlockNoise, start: int, stop: int, is_below: np.ndarray
) -> bool:
    if (stop - start) * noise.block_length < _LEAST_INDICES:
        return False
    # Of few elements, most of the noise of one run may lie in three.
    is_small = noise.count <= _LEAST_CARRIERS and stop - start >= _LEAST_BLOCKS
    is_noise = noise.norms[:, start:stop].max(axis=0) > noise.floors[start:stop]
    if is_small and is_noise.all() and not is_below[start:stop].any():
        return True
    blocks = np.zeros(noise.floors.size, bool)
    blocks[start:stop] = True
    num_elements = noise.count * (stop - start)
    density = _density(noise, blocks)
    return density >= max(_LEAST_CARRIERS / num_elements, _LEAST_DENSITY)


def _density(noise: BlockNoise, blocks: np.ndarray) -> float:
    """Share of elements that carry the noise of some blocks, in one run; the most."""
    norms = np.sqrt((noise.norms[:, blocks] ** 2).sum(axis=1))
    maxima = noise.maxima[:, blocks].max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        carriers = np.nan_to_num((norms / maxima) ** 2)
    return float(carriers.max() / (noise.count * blocks.sum()))


def _level(noise: BlockNoise, blocks: np.ndarray) -> float:
    """Of an element of some blocks: the noise, and at least what is tolerated."""
    norms = np.sqrt((noise.norms[:, blocks] ** 2).sum(axis=1)).max()
    floor = np.sqrt((noise.floors[blocks] ** 2).sum())
    return float(max(norms, floor) / np.sqrt(noise.count * blocks.sum()))


def _runs(is_chosen: np.ndarray) -> Sequence[tuple[int, int]]:
    """Start and stop of the ranges of chosen blocks."""
    steps = np.flatnonzero(np.diff(is_chosen.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in steps.reshape(-1, 2)]
