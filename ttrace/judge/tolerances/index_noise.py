"""Reads the noise of every index along every dim of a tensor, in one pass a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.execute import read_blocks
from ttrace.compare.operands import PairPlan
from ttrace.compare.plan import TensorPlan
from ttrace.ir.trace_source import TraceSource

_CHUNK = 1 << 22
"""Elements that are held as float64 at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexNoise:
    """Noise along one dim.

    Attributes:
        norms: float64, ``[runs, indices]``: of the noise.
        maxima: float64, ``[runs, indices]``: largest noise of an element.
        reference_norms: float64, ``[indices]``.
    """

    norms: np.ndarray
    maxima: np.ndarray
    reference_norms: np.ndarray

    def pooled(self, shape: tuple[int, int], *, axis: int) -> "IndexNoise":
        """Some indices as one.

        Args:
            shape: The indices as a table.
            axis: Along which they become one.
        """
        runs = (len(self.norms), *shape)
        return IndexNoise(
            norms=np.linalg.norm(self.norms.reshape(runs), axis=axis + 1),
            maxima=self.maxima.reshape(runs).max(axis=axis + 1),
            reference_norms=np.linalg.norm(
                self.reference_norms.reshape(shape), axis=axis
            ),
        )


def noise_by_index(
    runs: Sequence[tuple[TraceSource, TensorPlan]], reference: TraceSource
) -> list[IndexNoise]:
    """The noise along each dim of a tensor.

    Args:
        runs: Noise runs, each with the plan that compares the tensor.
        reference: The trusted run.

    Returns:
        One per dim.
    """
    shape = runs[0][1].match.reference.global_shape
    squares = [np.zeros((len(runs), length)) for length in shape]
    maxima = [np.zeros((len(runs), length)) for length in shape]
    of_reference = [np.zeros(length) for length in shape]
    for number, (trace, plan) in enumerate(runs):
        for start, theirs, ours in _chunks(plan, reference, trace):
            noise = np.abs(ours - theirs)
            for dim in range(len(shape)):
                others = tuple(d for d in range(len(shape)) if d != dim)
                at = slice(start[dim], start[dim] + noise.shape[dim])
                squares[dim][number, at] += np.square(noise).sum(axis=others)
                largest = noise.max(axis=others, initial=0.0)
                maxima[dim][number, at] = np.maximum(maxima[dim][number, at], largest)
                if number == 0:
                    of_reference[dim][at] += np.square(theirs).sum(axis=others)
    return [
        IndexNoise(
            norms=np.sqrt(squares[dim]),
            maxima=maxima[dim],
            reference_norms=np.sqrt(of_reference[dim]),
        )
        for dim in range(len(shape))
    ]


def _chunks(
    plan: TensorPlan, reference: TraceSource, trace: TraceSource
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """Where each lies, and float64 of the reference and of the other run there."""
    for pair in plan.pairs:
        if not isinstance(pair, PairPlan) or not pair.region.size:
            continue
        theirs = read_blocks(pair.reference, pair.region, reference)
        ours = read_blocks(pair.candidate, pair.region, trace)
        if not pair.region.extent:
            continue
        length, *rest = pair.region.start
        rows = max(1, _CHUNK * pair.region.extent[0] // pair.region.size)
        for first in range(0, pair.region.extent[0], rows):
            cut = slice(first, first + rows)
            yield (
                (length + first, *rest),
                theirs[cut].astype(np.float64),
                ours[cut].astype(np.float64) * pair.factor,
            )
