"""Pairs of arrays that benchmarks compare, and what one writes first to do so."""

import numpy as np

from ttrace.compare.backend import ArrayPair
from ttrace.ir.dtypes import DTYPES


def make_pairs(
    name: str, noise: float, num_bytes: int, num_pairs: int = 2000
) -> list[ArrayPair]:
    """Pairs of mixed sizes, log-normal, of ``num_bytes`` on each side together."""
    rng = np.random.default_rng(0)
    dtype = DTYPES[name].numpy
    weights = rng.lognormal(0, 1.5, num_pairs)
    sizes = (weights / weights.sum() * num_bytes / dtype.itemsize).astype(int) + 1
    values = rng.standard_normal(max(sizes), np.float32)
    factors = 1 + np.float32(noise) * rng.standard_normal(max(sizes), np.float32)
    reference = values.astype(dtype)
    candidate = (reference.astype(np.float32) * factors).astype(dtype)
    return [
        ArrayPair(reference=reference[:n].copy(), candidate=candidate[:n].copy())
        for n in sizes
    ]


def loop_in_numpy(pairs: list[ArrayPair]) -> None:
    """What one writes first: the same statistics in float32, without any care."""
    for pair in pairs:
        r = pair.reference.astype(np.float32, copy=False)
        c = pair.candidate.astype(np.float32, copy=False)
        d = c - r
        magnitude = np.abs(d)
        for values in (r, c):
            np.sqrt(np.sum(values * values))
            np.max(np.abs(values))
            np.isnan(values).sum()
            np.isinf(values).sum()
        np.sqrt(np.sum(d * d))
        np.sum(r * c)
        magnitude.max()
        magnitude.argmax()
        (r != c).sum()
