"""Gradients that a run says nothing reduces, as sharded modules were told not to."""

from ttrace.ir.step_notes import UNREDUCED, parse_steps_text
from ttrace.ir.trace import TraceInfo


def unreduced_modules(step: int, info: TraceInfo) -> str | None:
    """The FSDP2 modules that did not reduce gradients in a step; None if all did.

    Args:
        step: In which an optimizer stepped.
        info: The run.
    """
    for rank in info.ranks:
        what, steps = parse_steps_text(str(rank.settings.get(UNREDUCED, "")))
        if step in steps:
            return what
    return None
