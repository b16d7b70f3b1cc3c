"""Gradients that every rank scales by a factor of its own."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import LEAST_ELEMENTS, Diagnosis, Findings, ids_of, tensors
from ttrace.judge.factors import factor_text
from ttrace.judge.verdict import Cause, TensorVerdict

_COSINE_SLACK = 1e-6
"""How far the cosine of a scaled gradient may be from 1."""

_SAME = 1e-3
"""Relative difference of factors that are one and the same."""

_MAX_NAMED = 4
"""Ranks whose factors the sentence says."""

_OF_STEP = frozenset({Kind.MAIN_GRAD, Kind.CLIPPED_GRAD})


def rank_factors(findings: Findings) -> Diagnosis | None:
    """Says by which factor each rank's part of all gradients is off.

    Told where these gradients are the first failure, each rank's part of each of them
    is a multiple of the reference's, by one factor a rank, and the factors differ.
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
    ]
    factors = _factors(verdicts)
    if factors is None or len(factors) < 2 or len(verdicts) < 2:
        return None
    least, largest = min(factors.values()), max(factors.values())
    if largest - least <= _SAME * largest:
        return None
    if any(abs(factor - 1) <= _SAME for factor in factors.values()):
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


def _factors(verdicts: list[TensorVerdict]) -> dict[int, float] | None:
    """By rank, candidate over reference; None where it is not one factor a rank."""
    found: dict[int, float] = {}
    num_elements: dict[int, int] = {}
    for verdict in verdicts:
        if verdict.cause not in (None, Cause.ERROR) or verdict.result is None:
            return None
        for rank, stats in verdict.result.rank_stats.items():
            if not stats.reference_norm and not stats.candidate_norm:
                continue
            if not stats.reference_norm or stats.cosine < 1 - _COSINE_SLACK:
                return None
            factor = stats.candidate_norm / stats.reference_norm
            known = found.setdefault(rank, factor)
            if abs(factor - known) > _SAME * known:
                return None
            num_elements[rank] = num_elements.get(rank, 0) + stats.count
    if any(number < LEAST_ELEMENTS for number in num_elements.values()):
        return None
    return found
