"""What clipping multiplies each gradient by, in either run.

Reads no array: the norms before and after it are there.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.execute import TensorResult
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_UNCHANGED = 1e-7
"""Relative, of a norm that is summed of the same values: nothing was clipped."""

_SAME = 1e-5
"""Relative, of factors that are one: they are multiplied in float32."""

_SAME_LIMIT = 1e-3
"""Relative, of a norm times a factor: functions that clip add 1e-6 to the norm."""

_PARALLEL = 1e-6
"""What the cosine of a multiple may be less than 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFactor:
    """A gradient, and what it is multiplied by.

    Attributes:
        verdict: On the clipped gradient.
        norm: Of the reference's gradient before it is clipped.
        reference: Its factor.
        candidate: That of the candidate, whose gradient agrees before it is clipped.
        is_multiple: The candidate's clipped gradient is a multiple of the reference's,
            or each rank's part of it is one.
    """

    verdict: TensorVerdict
    norm: float
    reference: float
    candidate: float
    is_multiple: bool

    @property
    def is_unclipped(self) -> bool:
        """The candidate leaves the gradient as it is, and the reference does not."""
        return (
            self.is_multiple
            and is_one(self.candidate, 1.0, _UNCHANGED)
            and not is_one(self.reference, 1.0)
        )

    @property
    def is_unclipped_in_reference(self) -> bool:
        """The reference leaves the gradient as it is, and the candidate does not."""
        return (
            self.is_multiple
            and is_one(self.reference, 1.0, _UNCHANGED)
            and not is_one(self.candidate, 1.0)
        )


def clip_factors(
    clipped: Iterable[TensorVerdict], before: Mapping[TensorId, TensorVerdict]
) -> list[ClipFactor]:
    """The factors of the gradients that were compared before and after the clip.

    Args:
        clipped: Verdicts on ``clipped_grad`` of a step.
        before: Those on ``main_grad``, by id.
    """
    found = []
    for verdict in clipped:
        given = before.get(replace(verdict.id, kind=Kind.MAIN_GRAD))
        if verdict.result is None or given is None or given.result is None:
            continue
        if given.status is not Status.PASSED:
            continue
        stats, norms = verdict.result.stats, given.result.stats
        if not (norms.reference_norm and norms.candidate_norm and stats.reference_norm):
            continue
        found.append(
            ClipFactor(
                verdict=verdict,
                norm=norms.reference_norm,
                reference=stats.reference_norm / norms.reference_norm,
                candidate=stats.candidate_norm / norms.candidate_norm,
                is_multiple=_is_multiple(verdict.result),
            )
        )
    return found


def _is_multiple(result: TensorResult) -> bool:
    parts = [p for p in result.rank_stats.values() if p.reference_norm]
    by_rank = bool(parts) and all(p.cosine >= 1 - _PARALLEL for p in parts)
    return by_rank or result.stats.cosine >= 1 - _PARALLEL


def common_factor(factors: Iterable[float]) -> float | None:
    """The factor that all have; None of several, or of none."""
    listed = list(factors)
    if not listed or any(not is_one(each, listed[0]) for each in listed):
        return None
    return listed[0]


def limits_norm_of(
    part: Sequence[ClipFactor], of_all: Sequence[ClipFactor], factors: tuple[float, ...]
) -> bool:
    """Whether one limit of the norm of a part gives one factor, and of all the other.

    Args:
        part: Some of the gradients.
        of_all: All of them.
        factors: What the part, and what all are multiplied by.
    """
    norms = (math.hypot(*(each.norm for each in of)) for of in (part, of_all))
    first, other = (n * factor for n, factor in zip(norms, factors, strict=True))
    return is_one(first, other, _SAME_LIMIT)


def is_one(first: float, second: float, within: float = _SAME) -> bool:
    """Whether two numbers are one but for rounding."""
    return math.isclose(first, second, rel_tol=within)
