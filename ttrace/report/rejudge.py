"""Judges the tensors of a report again, from their own figures; reads no trace.

What can be judged so is a tensor that failed or passed by its error alone, and one that
only one run has. Whatever else a tensor failed by stays as it is, with a count of why.
What follows for the report as a whole lies in ``ttrace.report.again``.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ttrace.errors import TensorIdError
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.judge.tolerances.precision import CoarserCompute
from ttrace.judge.tolerances.scalar_sums import scalar_sums
from ttrace.judge.tolerances.tolerance import Estimator, ToleranceTable
from ttrace.judge.verdicts.allowances import Allowance
from ttrace.judge.verdicts.verdict import Cause
from ttrace.report.tensor_report import TensorReport

_BY_ERROR_ALONE = re.compile(r"rel_err \S+ exceeds the tolerance \S+")
"""The reason of a tensor that failed by its error, and whose replicas agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a tensor is tolerated now.

    Attributes:
        tolerance: Largest ``rel_err``.
        derivation: Where it comes from, in words.
        estimator: The same in a word.
        noise_share: As in the report.
        noise_dominated: Whether an error could hide in it.
        least: As ``tolerance_least`` of the report.
        per_multiplier: As ``tolerance_per_multiplier`` of the report.
    """

    tolerance: float
    derivation: str
    estimator: str
    noise_share: float | None
    noise_dominated: bool
    least: float | None
    per_multiplier: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """That a tensor has no new limit.

    Attributes:
        reason: Why; empty where it needs none, as it may not differ at all.
    """

    reason: str = ""


NewLimit = Callable[[TensorReport], Limit | Kept]
"""What a compared tensor is tolerated now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A tensor that was judged again.

    Attributes:
        tensor: The tensor, with its new status.
        kept: Why a tensor that failed stays as it is; empty where it was judged.
    """

    tensor: TensorReport
    kept: str = ""


def limit_by_multiplier(multiplier: float, *, dominated_share: float) -> NewLimit:
    """Another safety factor on the noise that the report rests on.

    Args:
        multiplier: The factor.
        dominated_share: Share of noise above which an error could hide in it.
    """

    def limit_of(tensor: TensorReport) -> Limit | Kept:
        if tensor.tolerance_from == Estimator.EXACT:
            return Kept()
        if tensor.tolerance_from != Estimator.PERTURBED:
            return Kept(reason="its tolerance rests on no measured noise")
        per, least = tensor.tolerance_per_multiplier, tensor.tolerance_least
        if per is None or least is None:
            return Kept(reason="its tolerance rests on more than measured noise")
        share = tensor.noise_share
        what = (
            f"{multiplier:.3g} x {per:.3g}, of noise runs"
            if multiplier * per >= least
            else f"the least tolerance; above {multiplier:.3g} x {per:.3g}"
        )
        return Limit(
            tolerance=max(least, multiplier * per),
            derivation=f"{what}: rel {max(least, multiplier * per):.3g}",
            estimator=Estimator.PERTURBED,
            noise_share=share,
            noise_dominated=share is not None and share > dominated_share,
            least=least,
            per_multiplier=per,
        )

    return limit_of


def limit_by_table(
    table: ToleranceTable,
    coarser: CoarserCompute | None,
    tensors: Sequence[TensorReport],
) -> NewLimit:
    """What a tolerance file says.

    Args:
        table: What the file holds.
        coarser: The candidate's dtype, where it is coarser than the reference's.
        tensors: All of the report: what its scalars sum up.
    """
    ids = [(_id_of(tensor), tensor.shape) for tensor in tensors]
    sums = scalar_sums(
        {id_: shape for id_, shape in ids if id_ is not None and shape is not None}
    )

    def limit_of(tensor: TensorReport) -> Limit | Kept:
        if tensor.tolerance_from == Estimator.EXACT:
            return Kept()
        tensor_id = _id_of(tensor)
        noise = None if tensor_id is None else table.noise.get(tensor_id)
        if tensor_id is None or noise is None:
            return Kept(reason="the tolerance file has no noise of it")
        norm, dtypes = tensor.reference_norm, tensor.dtypes
        if not norm or tensor.num_elements is None or dtypes is None:
            return Kept(reason="its reference is zero")

        def tolerance_for(
            reference_norm: float,
            dtypes: tuple[str, str],
            coarser: CoarserCompute | None = None,
        ):
            assert tensor.num_elements is not None
            return table.tolerance_for(
                tensor_id,
                num_elements=tensor.num_elements,
                reference_norm=reference_norm,
                storage_dtypes=dtypes,
                compute_epsilon=0.0,
                depth=0,
                coarser=coarser,
                summed=sums.get(tensor_id),
            )

        measured = noise.reference_norm
        same = tolerance_for(measured, (dtypes[0], dtypes[0])).difference_norm
        if not tensor.part and abs(measured - norm) > same:
            return Kept(reason=OTHER_NORM)
        tolerance = tolerance_for(norm, dtypes, coarser)
        per = tolerance.per_multiplier
        return Limit(
            tolerance=tolerance.relative_to(norm),
            derivation=tolerance.derivation,
            estimator=tolerance.estimator.value,
            noise_share=tolerance.noise_share,
            noise_dominated=tolerance.noise_dominated,
            least=None if per is None else tolerance.least / norm,
            per_multiplier=None if per is None else per / norm,
        )

    return limit_of


OTHER_NORM = "its norm is not the one that the noise was measured on"


def judge_error(tensor: TensorReport, limit_of: NewLimit) -> Judged:
    """Judges a tensor by another limit, where that is what its status rests on."""
    if tensor.status not in ("passed", "failed") or tensor.rel_err is None:
        kept = f"it failed by {tensor.cause or 'a cause that is not told'}"
        return Judged(tensor=tensor, kept=kept if tensor.status == "failed" else "")
    if tensor.status == "failed":
        kept = _other_cause(tensor)
        if kept:
            return Judged(tensor=tensor, kept=kept)
    limit = limit_of(tensor)
    if isinstance(limit, Kept):
        kept = limit.reason or "it may not differ at all"
        return Judged(tensor=tensor, kept=kept if tensor.status == "failed" else "")
    margin = _ratio(tensor.rel_err, limit.tolerance)
    fails = margin > 1
    judged = replace(
        tensor,
        tolerance=limit.tolerance,
        tolerance_from=limit.estimator,
        tolerance_derivation=limit.derivation,
        noise_share=limit.noise_share,
        noise_dominated=(not fails and limit.noise_dominated) or None,
        margin=margin,
        tolerance_least=limit.least,
        tolerance_per_multiplier=limit.per_multiplier,
    )
    if fails:
        reason = (
            f"rel_err {tensor.rel_err:.3g} exceeds the tolerance {limit.tolerance:.3g}"
        )
        judged = replace(judged, status="failed", cause=Cause.ERROR, reason=reason)
    elif tensor.status == "failed":
        judged = replace(judged, status="passed", cause=None, reason="")
    return Judged(tensor=judged)


def judge_presence(
    tensor: TensorReport, allowances: Sequence[Allowance]
) -> TensorReport:
    """Judges whether a tensor may be unmatched.

    What an allowance let be unmatched when the report was made is judged anew.
    """
    if tensor.status == "skipped" and tensor.allowed:
        bare = tensor.reason.removesuffix(f"; allowed by {tensor.allowed}")
        tensor = replace(tensor, status="unmatched", reason=bare, allowed=None)
    tensor_id = _id_of(tensor)
    if tensor.status != "unmatched" or tensor_id is None:
        return tensor
    for allowance in allowances:
        if allowance.allows(tensor_id):
            return replace(
                tensor,
                status="skipped",
                reason=f"{tensor.reason}; allowed by {allowance.grounds}",
                allowed=allowance.grounds,
            )
    return tensor


def num_matching(
    tensors: Iterable[TensorReport], allowance: Allowance
) -> tuple[int, int]:
    """How many tensors match a pattern, and how many of them only one run has."""
    matching = [
        tensor
        for tensor in tensors
        if (id_ := _id_of(tensor)) is not None and id_.matches(allowance.pattern)
    ]
    return len(matching), sum(
        tensor.status == "unmatched" or tensor.allowed is not None
        for tensor in matching
    )


def _other_cause(tensor: TensorReport) -> str:
    """Why a failed tensor would not pass whatever its tolerance; empty if it might."""
    if tensor.cause != Cause.ERROR:
        return f"it failed by {tensor.cause or 'a cause that is not told'}"
    if tensor.failed_part is not None:
        return "a part of it failed"
    if not _BY_ERROR_ALONE.fullmatch(tensor.reason):
        return "it failed by more than its error"
    return ""


def _id_of(tensor: TensorReport) -> TensorId | None:
    try:
        return parse_tensor_id(tensor.id)
    except TensorIdError:
        return None


def _ratio(error: float, tolerance: float) -> float:
    if error == 0:
        return 0.0
    return error / tolerance if tolerance and math.isfinite(error) else math.inf
