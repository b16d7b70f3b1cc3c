"""A gradient that is the reference's times a factor of its own in each micro-batch.

Of a candidate whose micro-batches are parts of one of the reference: what is compared
there is one tensor, and no multiple of the reference's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

_LEAST_ELEMENTS = 8

_COSINE_SLACK = 1e-6
"""How far the cosine of a scaled gradient may be from 1."""

_LEAST_SPREAD = 1e-3
"""Relative difference of factors that are not the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrobatchFactors:
    """What the micro-batches of the candidate make of a gradient of the reference.

    Attributes:
        id: The gradient, the first one that failed.
        factors: By micro-batch of the candidate; they are not all the same.
        tokens: By micro-batch the positions at which the reference's gradient is not
            zero, where the factors are their mean over them; else empty.
    """

    id: TensorId
    factors: Mapping[int, float]
    tokens: Mapping[int, int]


def find_microbatch_factors(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> MicrobatchFactors | None:
    """Looks for such factors in the first gradient of an activation that failed.

    Args:
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
        candidate: The run under test, in the micro-batches of the reference.
    """
    for verdict in verdicts:
        if verdict.id.kind in ACTIVATIONS & GRADIENTS:
            if verdict.status is Status.FAILED:
                is_error = verdict.cause is Cause.ERROR
                return _factors(verdict.id, reference, candidate) if is_error else None
    return None


def _factors(
    id_: TensorId, reference: TraceSource, candidate: TraceSource
) -> MicrobatchFactors | None:
    record = candidate.info.tensors.get(id_)
    if record is None or len({shard.id.microbatch for shard in record.shards}) < 2:
        return None
    ours, theirs = values_of(id_, candidate), values_of(id_, reference)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    made_in = _microbatches(record)
    factors: dict[int, float] = {}
    for number in np.unique(made_in).tolist():
        factor = _factor(ours[made_in == number], theirs[made_in == number])
        if factor is None:
            return None
        factors[number] = factor
    largest = max(map(abs, factors.values()))
    if max(factors.values()) - min(factors.values()) <= _LEAST_SPREAD * largest:
        return None
    return MicrobatchFactors(
        id=id_, factors=factors, tokens=_tokens(factors, made_in, theirs)
    )


def _microbatches(record: TensorRecord) -> np.ndarray:
    """Of the logical shape: the recorded micro-batch that each element is of."""
    found = np.full(record.global_shape, -1)
    for shard in record.shards:
        for block in shard.layout.blocks:
            region = block.region
            where = (*map(slice, region.start, region.stop), ...)
            found[where] = shard.id.microbatch
    return found


def _factor(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Candidate over reference; None where it is no multiple."""
    norms = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    if ours.size < _LEAST_ELEMENTS or not all(norms):
        return None
    cosine = float((ours * theirs).sum()) / (norms[0] * norms[1])
    if abs(cosine) < 1 - _COSINE_SLACK:
        return None
    return math.copysign(norms[0] / norms[1], cosine)


def _tokens(
    factors: Mapping[int, float], made_in: np.ndarray, theirs: np.ndarray
) -> dict[int, int]:
    """Positions that count, if these are what the factors come from; else nothing."""
    if theirs.ndim < 2:
        return {}
    counts = (theirs != 0).any(axis=-1)
    tokens = {n: int((counts & (made_in[..., 0] == n)).sum()) for n in factors}
    mean = sum(tokens.values()) / len(tokens)
    explained = all(
        math.isclose(factors[number], mean / tokens[number], rel_tol=_LEAST_SPREAD)
        for number in factors
    )
    return tokens if explained else {}
