"""Gradients that every rank scales by a factor of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttrace.compare.stats import PairStats
from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import LEAST_ELEMENTS, Diagnosis, Findings, ids_of, tensors
from ttrace.judge.verdicts.factors import factor_text
from ttrace.judge.verdicts.verdict import Cause, TensorVerdict

_COSINE_SLACK = 1e-6
"""How far the cosine of a scaled gradient may be from 1."""

_SAME = 1e-3
"""Relative difference of factors that are one and the same."""

_OF_LIMITS = 1e-2
"""Relative difference of norms after clipping to one limit: norms are near it."""

_OF_VALUES = frozenset({None, Cause.ERROR, Cause.REPLICAS})

_MAX_NAMED = 4
"""Ranks whose factors the sentence says."""

_OF_STEP = frozenset({Kind.MAIN_GRAD, Kind.CLIPPED_GRAD})


def rank_factors(findings: Findings) -> Diagnosis | None:
    """Says by which factor each rank's part of all gradients is off.

    Told where these gradients are the first failure, each rank's part of each of them
    is a multiple of the reference's, by one factor a rank, and the factors differ.
    Where some are 1, as with norms that are not clipped, the others must be what
    clipping to one norm gives.
    """
    if not findings.failed or findings.failed[0].id.kind not in _OF_STEP:
        return None
    first = findings.failed[0].id
    verdicts = [
        verdict
        for verdict in findings.verdicts
        if verdict.id.kind is first.kind
        and verdict.id.step == first.step
        and verdict.result is not None
        and verdict.result.stats.reference_norm
        and not verdict.noise_dominated
    ]
    held = _held(verdicts)
    if held is None or len(held) < 2 or len(verdicts) < 2:
        return None
    factors = {rank: one.factor for rank, one in held.items()}
    least, largest = min(factors.values()), max(factors.values())
    if largest - least <= _SAME * largest:
        return None
    if any(map(_is_one, factors.values())) and not (
        _is_clipped_apart(list(held.values())) and _are_shared(verdicts, factors)
    ):
        return None  # these ranks do nothing of their own: it is the others to look at
    ranks = sorted(factors)
    named = ", ".join(
        f"{factor_text(factors[rank])} times on rank {rank}"
        for rank in ranks[:_MAX_NAMED]
    )
    more = len(ranks) - _MAX_NAMED
    others = f" and so on, on {more} more ranks" if more > 0 else ""
    return Diagnosis(
        code="rank_factors",
        sentence=f"the gradients of step {first.step} are the reference's {named}"
        f"{others}, on all {tensors(len(verdicts))} ({first.kind}): each rank scales "
        "what it holds by a factor of its own, as clipping does with the norm of its "
        "own shards. Clip by the norm of all gradients: add the squares up over the "
        "ranks that hold shards (all_reduce) before the square root",
        evidence={
            "step": first.step,
            "least_factor": least,
            "largest_factor": largest,
        },
        tensor_ids=ids_of(verdicts),
    )


@dataclass(slots=True)
class _Held:
    """What a rank holds of the gradients.

    Attributes:
        factor: Candidate over reference.
        square: Of the norm that it has in the reference.
        count: Elements.
    """

    factor: float
    square: float = 0.0
    count: int = 0


def _held(verdicts: Sequence[TensorVerdict]) -> dict[int, _Held] | None:
    """By rank; None where it is not one factor a rank."""
    found: dict[int, _Held] = {}

    def add(rank: int, stats: PairStats, factor_of_other: float) -> bool:
        """Whether it goes with what is known of the rank.

        Args:
            rank: Which holds it.
            stats: Of it, against a multiple of the reference.
            factor_of_other: That multiple.
        """
        if not stats.reference_norm and not stats.candidate_norm:
            return True
        if not stats.reference_norm or stats.cosine < 1 - _COSINE_SLACK:
            return False
        norm = stats.reference_norm / factor_of_other
        factor = stats.candidate_norm / norm
        known = found.setdefault(rank, _Held(factor))
        known.square += norm**2
        known.count += stats.count
        return abs(factor - known.factor) <= _SAME * known.factor

    for verdict in verdicts:
        if verdict.cause not in _OF_VALUES or verdict.result is None:
            return None
        for rank, stats in verdict.result.rank_stats.items():
            if not add(rank, stats, 1.0):
                return None
        for replica in verdict.result.candidate_replicas:
            other = found.get(replica.against)
            if not replica.stats.reference_norm and not replica.stats.candidate_norm:
                continue
            if other is None or not add(replica.rank, replica.stats, other.factor):
                return None
    if any(held.count < LEAST_ELEMENTS for held in found.values()):
        return None
    return found


def _is_one(factor: float) -> bool:
    return abs(factor - 1) <= _SAME


def _is_clipped_apart(held: Sequence[_Held]) -> bool:
    """Whether the factors are what clipping each rank's own norm to a limit gives."""
    clipped = [
        one.factor * math.sqrt(one.square) for one in held if not _is_one(one.factor)
    ]
    limit = min(clipped, default=0.0)
    return all(
        math.sqrt(one.square) <= limit * (1 + _SAME)
        if _is_one(one.factor)
        else one.factor < 1
        and math.isclose(one.factor * math.sqrt(one.square), limit, rel_tol=_OF_LIMITS)
        for one in held
    )


def _are_shared(
    verdicts: Sequence[TensorVerdict], factors: Mapping[int, float]
) -> bool:
    """Whether ranks of several factors hold parts, or replicas, of one tensor.

    Stages of a pipeline do not: what goes on in one of them has other causes, too.
    """
    for verdict in verdicts:
        result = verdict.result
        if result is None:
            continue
        ranks = {*result.rank_stats, *(r.rank for r in result.candidate_replicas)}
        own = [factors[rank] for rank in ranks if rank in factors]
        if own and max(own) - min(own) > _SAME * max(own):
            return True
    return False
