"""Mergeable statistics of one pair of arrays, free of overflow and underflow."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStats:
    """What a backend computes of two arrays of one shape, and what merges of it.

    Norms (not sums of squares) and a cosine (not a dot product) are kept, so that
    every float64 value from 1e-300 to 1e300 is represented. Only elements that are
    finite on both sides enter norms, cosine and maxima; the others are counted.

    Attributes:
        count: Number of elements.
        reference_norm: Frobenius norm of the reference.
        candidate_norm: Frobenius norm of the candidate.
        difference_norm: Frobenius norm of candidate minus reference.
        cosine: Inner product over the product of both norms; 0 if one is 0.
        max_abs_diff: Largest absolute difference.
        max_abs_diff_at: C-order position of the first element that attains it;
            None if ``max_abs_diff`` is 0. After a merge: position in the
            concatenation of the parts.
        max_abs_reference: Largest absolute value of the reference.
        max_abs_candidate: Largest absolute value of the candidate.
        num_unequal: Elements whose values differ (-0.0 equals 0.0; NaN differs from
            everything but a NaN at the same place; so do infinities of other sign).
        num_nan_reference: NaNs in the reference.
        num_nan_candidate: NaNs in the candidate.
        num_inf_reference: Infinities in the reference.
        num_inf_candidate: Infinities in the candidate.
        num_nonfinite_unequal: Elements among ``num_unequal`` that are not finite on
            one side or on both.
    """

    count: int = 0
    reference_norm: float = 0.0
    candidate_norm: float = 0.0
    difference_norm: float = 0.0
    cosine: float = 0.0
    max_abs_diff: float = 0.0
    max_abs_diff_at: int | None = None
    max_abs_reference: float = 0.0
    max_abs_candidate: float = 0.0
    num_unequal: int = 0
    num_nan_reference: int = 0
    num_nan_candidate: int = 0
    num_inf_reference: int = 0
    num_inf_candidate: int = 0
    num_nonfinite_unequal: int = 0

    @property
    def rel_err(self) -> float:
        """Frobenius norm of the difference over that of the reference.

        0 when nothing differs, infinite when only the reference is all zero.
        """
        if self.difference_norm == 0:
            return 0.0
        if self.reference_norm == 0:
            return math.inf
        return self.difference_norm / self.reference_norm

    @property
    def num_nonfinite_reference(self) -> int:
        return self.num_nan_reference + self.num_inf_reference

    @property
    def num_nonfinite_candidate(self) -> int:
        return self.num_nan_candidate + self.num_inf_candidate

    @property
    def is_equal_where_nonfinite(self) -> bool:
        """Whether there is no NaN, and infinities are the same at the same places."""
        num_nan = self.num_nan_reference + self.num_nan_candidate
        return not num_nan and not self.num_nonfinite_unequal

    def merge(self, other: "PairStats") -> "PairStats":
        """Statistics of both parts together; associative up to rounding."""
        reference_norm = math.hypot(self.reference_norm, other.reference_norm)
        candidate_norm = math.hypot(self.candidate_norm, other.candidate_norm)
        cosine = sum(
            part.cosine
            * _share(part.reference_norm, reference_norm)
            * _share(part.candidate_norm, candidate_norm)
            for part in (self, other)
        )
        if other.max_abs_diff > self.max_abs_diff:
            assert other.max_abs_diff_at is not None
            max_abs_diff_at = self.count + other.max_abs_diff_at
        else:
            max_abs_diff_at = self.max_abs_diff_at
        return PairStats(
            count=self.count + other.count,
            reference_norm=reference_norm,
            candidate_norm=candidate_norm,
            difference_norm=math.hypot(self.difference_norm, other.difference_norm),
            cosine=max(-1.0, min(1.0, cosine)),
            max_abs_diff=max(self.max_abs_diff, other.max_abs_diff),
            max_abs_diff_at=max_abs_diff_at,
            max_abs_reference=max(self.max_abs_reference, other.max_abs_reference),
            max_abs_candidate=max(self.max_abs_candidate, other.max_abs_candidate),
            num_unequal=self.num_unequal + other.num_unequal,
            num_nan_reference=self.num_nan_reference + other.num_nan_reference,
            num_nan_candidate=self.num_nan_candidate + other.num_nan_candidate,
            num_inf_reference=self.num_inf_reference + other.num_inf_reference,
            num_inf_candidate=self.num_inf_candidate + other.num_inf_candidate,
            num_nonfinite_unequal=self.num_nonfinite_unequal
            + other.num_nonfinite_unequal,
        )


def _share(part: float, whole: float) -> float:
    """Norm of a part over that of the whole, also where that is 0 or overflowed."""
    if part == 0:
        return 0.0
    if math.isinf(whole):
        return float(math.isinf(part))
    return part / whole
