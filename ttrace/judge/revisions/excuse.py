"""Lets pass what failed, where noise that was not measured explains it."""

import math
from dataclasses import replace

from ttrace.judge.verdicts.verdict import Status, TensorVerdict


def excused(
    verdict: TensorVerdict, norm: float, what: str, *, dominated_share: float
) -> TensorVerdict:
    """The verdict, passed if its error is no larger than its tolerance and some noise.

    Args:
        verdict: Failed by its error.
        norm: Frobenius norm of that noise, in the tensor's own units.
        what: What it stands for, as the derivation of the tolerance says it.
        dominated_share: Share of the reference's norm above which noise dominates.
    """
    assert verdict.result is not None and verdict.tolerance is not None
    stats, tolerance = verdict.result.stats, verdict.tolerance
    if not norm or stats.difference_norm > norm + tolerance.difference_norm:
        return verdict
    share = norm / stats.reference_norm if stats.reference_norm else math.inf
    tolerance = replace(
        tolerance,
        difference_norm=norm + tolerance.difference_norm,
        derivation=f"{tolerance.derivation}, and {norm:.3g} for {what}",
        noise_share=share,
        noise_dominated=share > dominated_share,
        per_multiplier=None,
    )
    return replace(
        verdict,
        status=Status.PASSED,
        cause=None,
        reason="",
        tolerance=tolerance,
        margin=stats.difference_norm / tolerance.difference_norm,
    )
