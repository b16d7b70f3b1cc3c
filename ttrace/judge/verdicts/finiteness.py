"""NaN and infinities: where they are what a run is meant to hold, and where not."""

from collections.abc import Sequence

from ttrace.compare.stats import PairStats
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.judge.verdicts.verdict import Cause

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


def place_text(index: Sequence[int] | None, number: int, count: int) -> str:
    """`` (the first at [3, 2])``; empty where all are so, or it is not known.

    Args:
        index: Of the first one that is not finite; None where that is not known.
        number: How many are not.
        count: Of how many elements.
    """
    if index is None or number == count:
        return ""
    return f" ({'the first ' if number > 1 else ''}at {list(index)})"


def where_to_look(*, is_given: bool) -> str:
    """What makes values that are not finite.

    Args:
        is_given: The run was given them, as initial parameters or data.
    """
    if is_given:
        return (
            "look at how it is initialized, loaded or read, and for memory that "
            "nothing was written to"
        )
    return (
        "look there for a division by zero, a log or sqrt of what is not positive, an "
        "overflow of the dtype, an index out of range, or memory that nothing was "
        "written to"
    )


def infinities_note(stats: PairStats) -> str:
    """What to say of infinities that agree; empty if there are none."""
    if not stats.num_inf_reference:
        return ""
    return (
        f"{stats.num_inf_reference} of {stats.count} values are the same infinities in "
        "both runs, at the same places; the others are compared"
    )
