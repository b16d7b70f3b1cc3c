"""Known reasons for which the same modules give unlike values; verified, no guesses."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ttrace.ir.side import Side
from ttrace.ir.transform import Transform
from ttrace.map_proposal.closeness import close_transform
from ttrace.mapping.rules import other_side

Slot = str | None
Outputs = Mapping[Slot, np.ndarray]
"""What a module gives, by slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Why two outputs are unlike, although their modules are the same.

    Attributes:
        reasons: By the slots that cannot be compared for it, of either side.
        transform: From the candidate's gradient to the reference's; None if these are
            unlike, too.
    """

    reasons: Mapping[Side, Mapping[Slot, str]]
    transform: Transform | None = None


def known_difference(
    slot: Slot, other_slot: Slot, outputs: Mapping[Side, Outputs], tolerance: float
) -> Difference | None:
    """Why an output of the reference and one of the candidate are unlike.

    Args:
        slot: Of the reference.
        other_slot: Of the candidate.
        outputs: All that the two modules give.
        tolerance: Relative difference up to which values are the same.

    Returns:
        None where no reason is known that holds for the values.
    """
    slots = {Side.REFERENCE: slot, Side.CANDIDATE: other_slot}
    values = {side: outputs[side][slots[side]] for side in Side}

    @functools.cache
    def agrees() -> bool:
        own, other = values[Side.REFERENCE], values[Side.CANDIDATE]
        return close_transform(other, own, tolerance) is not None

    for side in Side:
        other = other_side(side)
        if _is_repeated(values[side], values[other], tolerance):
            return Difference(
                reasons={
                    side: {slots[side]: f"the {other} has it once, not repeated"},
                    other: {slots[other]: f"the {side} has it repeated"},
                }
            )
        for bias_slot, bias in outputs[side].items():
            if bias_slot == slots[side] or bias.shape != values[side].shape[-1:]:
                continue
            if bias.any() and agrees():
                continue  # without it: it is no bias, but a statistic or a state
            sums = {**values, side: values[side] + bias}
            transform = close_transform(
                sums[Side.CANDIDATE], sums[Side.REFERENCE], tolerance
            )
            if transform is not None:
                apart = f"the bias is given apart, and the {other} has added it"
                return Difference(
                    reasons={
                        side: {slots[side]: apart, bias_slot: apart},
                        other: {
                            slots[other]: f"with its bias, which the {side} gives apart"
                        },
                    },
                    transform=transform,
                )
    return None


def _is_repeated(many: np.ndarray, one: np.ndarray, tolerance: float) -> bool:
    """Whether an array is another one repeated along a further dim."""
    for dim in range(many.ndim):
        if (
            many.shape[dim] > 1
            and many.shape[:dim] + many.shape[dim + 1 :] == one.shape
        ):
            whole = np.expand_dims(one, dim).astype(np.float64)
            error = float(np.linalg.norm(many - whole))
            if error <= tolerance * float(np.linalg.norm(many.astype(np.float64))):
                return True
    return False
