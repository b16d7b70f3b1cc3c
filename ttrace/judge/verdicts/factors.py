"""A factor between two tensors, rounded for people: exactly where it is a power of two.

Loss scales, numbers of ranks and of micro-batches mostly are; 1024 read as 1020 sends
people looking for 1020.
"""

import math

from ttrace.judge.verdicts.verdict import TensorVerdict

_CLOSE = 1e-4
"""How far a measured factor may be from the power of two that it is."""

_COSINE_SLACK = 1e-6
"""How far the cosine of a tensor that is a multiple of another may be from 1."""


def multiple_of(verdict: TensorVerdict) -> float | None:
    """How many times the reference a tensor is; None where it is no multiple of it."""
    if verdict.result is None:
        return None
    stats = verdict.result.stats
    if stats.num_nonfinite_reference or stats.num_nonfinite_candidate:
        return None
    if not stats.reference_norm or abs(stats.cosine) < 1 - _COSINE_SLACK:
        return None
    return math.copysign(stats.candidate_norm / stats.reference_norm, stats.cosine)


def rounded_factor(ratio: float) -> float:
    """The power of two that a measured factor is, or its first three digits.

    Args:
        ratio: Finite; 0 stays 0.
    """
    if ratio == 0:
        return 0.0
    power = math.copysign(2.0 ** round(math.log2(abs(ratio))), ratio)
    if math.isclose(ratio, power, rel_tol=_CLOSE):
        return power
    return float(f"{ratio:.3g}")


def factor_text(factor: float) -> str:
    """``1024``, ``1/1024``, ``0.5``, ``3.14``."""
    rounded = rounded_factor(factor)
    short = f"{rounded:.3g}"
    if float(short) == rounded:
        return f"{rounded:g}"
    if abs(rounded) >= 1:
        return f"{rounded:.15g}"
    return f"{'-' if rounded < 0 else ''}1/{1 / abs(rounded):.15g}"
