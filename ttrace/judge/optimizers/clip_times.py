"""Runs one of which clips gradients that a backward adds to later."""

from dataclasses import dataclass

from ttrace.ir.side import Side
from ttrace.ir.step_notes import CLIPS, is_early_clipping
from ttrace.ir.trace import TraceInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyClipping:
    """What both runs say of when they clip.

    Attributes:
        side: The run that clips too early.
        early: What it says.
        other: What the other run says; None if it was not seen to clip.
    """

    side: Side
    early: str
    other: str | None


def find_early_clipping(
    reference: TraceInfo, candidate: TraceInfo
) -> EarlyClipping | None:
    """The run that clips early, where the other one does not; None of both alike."""
    said = {Side.REFERENCE: _said_of(reference), Side.CANDIDATE: _said_of(candidate)}
    early = {
        side: [text for text in texts if is_early_clipping(text)]
        for side, texts in said.items()
    }
    sides = [side for side in Side if early[side]]
    if len(sides) != 1:
        return None
    (side,) = sides
    other = Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE
    return EarlyClipping(
        side=side, early=early[side][0], other=next(iter(said[other]), None)
    )


def _said_of(info: TraceInfo) -> list[str]:
    return [
        str(text)
        for name, text in info.ranks[0].settings.items()
        if name.startswith(f"{CLIPS}.")
    ]
