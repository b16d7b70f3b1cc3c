"""Where within a tensor its error lies: a head, an expert, some rows."""

import math
from dataclasses import dataclass

import numpy as np

from ttrace.compare.backend import Backend
from ttrace.compare.execute import run_parts
from ttrace.compare.parts import Part, equal_blocks
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.verdicts.verdict import TensorVerdict

_MAX_BLOCKS = 64
"""Blocks that a dim is cut into."""

_MAX_RANGES = 4
"""Ranges that are a place; what is spread wider is none."""

_LARGEST_SHARE = 0.5
"""Of the indices of a dim, that an error lies in and is confined to them."""

_LEAST_ELSEWHERE = 0.01
"""What agrees has of the square of the norm, over its share of the elements."""

_LEAST_AGREE = 0.5
"""Of the blocks that agree, those that do beside their own norm, if it is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """A tensor whose error lies in a part of it, while all else of it agrees.

    Attributes:
        id: The tensor.
        part: Where the error lies; ends are those of blocks.
        length: Of the part's dim.
    """

    id: TensorId
    part: Part
    length: int


def find_confinement(
    verdict: TensorVerdict | None,
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> Confinement | None:
    """Looks where the error of a failed tensor lies, along each of its dims.

    Args:
        verdict: On the tensor.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.

    Returns:
        The narrowest place; None where the error is spread.
    """
    if (
        not failed_by_values(verdict)
        or verdict.result is None
        or verdict.result.rows is not None
        or verdict.tolerance is None
        or verdict.failed_part is not None
    ):
        return None
    plan = verdict.result.plan
    best, least = None, _LARGEST_SHARE
    for dim, length in enumerate(plan.match.reference.global_shape):
        blocks = equal_blocks(dim, length, max_blocks=_MAX_BLOCKS)
        if not blocks:
            continue
        stats = run_parts(
            [(plan, block) for block in blocks], reference, candidate, backend
        )
        errors = np.array([s.difference_norm for s in stats])
        is_wrong = _wrong_blocks(errors, verdict.tolerance.difference_norm)
        if is_wrong is None or is_wrong.mean() > least:
            continue
        norms = np.array([s.reference_norm for s in stats])
        tolerated = verdict.tolerance.relative_to(float(np.linalg.norm(norms)))
        if not _is_elsewhere(norms, errors, is_wrong, tolerated):
            continue
        indices = np.flatnonzero(np.repeat(is_wrong, length // len(blocks)))
        part = Part.of_indices(dim, indices)
        is_narrower = best is None or is_wrong.mean() < least
        if len(part.ranges) <= _MAX_RANGES and is_narrower:
            least = float(is_wrong.mean())
            best = Confinement(id=verdict.id, part=part, length=length)
    return best


def _is_elsewhere(
    norms: np.ndarray, errors: np.ndarray, is_wrong: np.ndarray, tolerated: float
) -> bool:
    """Whether the tensor has values where it agrees.

    Zeros, as in the gradients of tokens that no loss counts, agree whatever is wrong.
    Small values do not count as such where they agree as well as the whole should.

    Args:
        norms: Of the reference's blocks.
        errors: Norms of the differences of these blocks.
        is_wrong: Where the error lies.
        tolerated: Relative to the norm of the whole.
    """
    rest, whole = (float(np.square(n).sum()) for n in (norms[~is_wrong], norms))
    if rest >= _LEAST_ELSEWHERE * (1 - is_wrong.mean()) * whole:
        return True
    agrees = errors[~is_wrong] <= tolerated * norms[~is_wrong]
    return bool((agrees & (norms[~is_wrong] > 0)).mean() > _LEAST_AGREE)


def _wrong_blocks(errors: np.ndarray, tolerated: float) -> np.ndarray | None:
    """bool, ``[blocks]``: beyond a block's share; None if the rest is not tolerated."""
    if not np.isfinite(errors).all():
        return None
    is_wrong = errors > tolerated / math.sqrt(len(errors))
    rest = np.linalg.norm(errors[~is_wrong])
    return is_wrong if is_wrong.any() and rest <= tolerated else None
