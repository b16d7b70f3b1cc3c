"""NaN and infinities: where they are what a run is meant to hold, and where not."""

from ttrace.compare.stats import PairStats
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.judge.verdict import Cause

_MAY_BE_INFINITE = (ACTIVATIONS - GRADIENTS) | {Kind.BUFFER, Kind.UPDATED_BUFFER}
"""Kinds that a mask may fill with infinities: attention masks, masked logits."""


NONFINITE = frozenset(
    {Cause.NONFINITE_REFERENCE, Cause.NONFINITE_CANDIDATE, Cause.INFINITIES}
)
"""Causes of tensors that fail by what is not finite."""


def nonfinite_failure(kind: Kind, stats: PairStats) -> tuple[Cause, str] | None:
    """Why what is not finite fails a tensor, with a sentence; None if it does not.

    Args:
        kind: Of the tensor.
        stats: Of the candidate against the reference.
    """
    # A mask leaves something: where nothing is finite, the run has overflowed.
    may_be_infinite = kind in _MAY_BE_INFINITE and stats.num_inf_reference < stats.count
    if stats.num_nan_reference or (stats.num_inf_reference and not may_be_infinite):
        return Cause.NONFINITE_REFERENCE, (
            f"{stats.num_nonfinite_reference} of {stats.count} values of the reference "
            f"are NaN or infinite ({stats.num_nonfinite_candidate} of the candidate)"
        )
    if stats.num_inf_reference and not stats.num_nan_candidate:
        if not stats.num_nonfinite_unequal:
            return None
        return Cause.INFINITIES, (
            "infinities are at other places, or of another sign: "
            f"{stats.num_inf_reference} of {stats.count} values in the reference, "
            f"{stats.num_inf_candidate} in the candidate, and "
            f"{stats.num_nonfinite_unequal} places differ"
        )
    if stats.num_inf_reference:
        return Cause.NONFINITE_CANDIDATE, (
            f"{stats.num_nan_candidate} of {stats.count} values of the candidate are "
            "NaN, none of the reference"
        )
    if stats.num_nonfinite_candidate:
        return Cause.NONFINITE_CANDIDATE, (
            f"{stats.num_nonfinite_candidate} of {stats.count} values of the candidate "
            "are NaN or infinite, none of the reference"
        )
    return None


def infinities_note(stats: PairStats) -> str:
    """What to say of infinities that agree; empty if there are none."""
    if not stats.num_inf_reference:
        return ""
    return (
        f"{stats.num_inf_reference} of {stats.count} values are the same infinities in "
        "both runs, at the same places; the others are compared"
    )
