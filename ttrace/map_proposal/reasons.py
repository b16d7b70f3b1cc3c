"""Why a proposed map leaves a tensor out: a value, which is written down elsewhere."""

from dataclasses import dataclass
from enum import Enum, auto

from ttrace.ir.left_out import SAME_CONTENT
from ttrace.ir.side import Side
from ttrace.mapping.rules import other_side


class Cause(Enum):
    """Why nothing is compared with a tensor."""

    NO_COUNTERPART = auto()
    """It was computed, and nothing that the other run has was found to be the same."""

    NOT_RECORDED = auto()
    """The other run recorded nothing of its kind, which ``detail`` is."""

    KEPT_ELSEWHERE = auto()
    """A number of the optimizer's own."""

    CONSTANT = auto()
    """No step changes it: a buffer, or a frozen parameter; its results are compared."""

    COUNTER = auto()
    """A number that a module counts with, such as its batches."""

    SAME_CONTENT = auto()
    """It holds what a compared tensor holds, whose name ``detail`` is."""

    KNOWN = auto()
    """What was found out of its module, which ``detail`` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a tensor of a run is left out.

    Attributes:
        cause: In short.
        side: The run that has it.
        detail: What the cause is about; empty where it says all, and for a tensor that
            holds what several hold.
    """

    cause: Cause
    side: Side
    detail: str = ""

    @property
    def is_gap(self) -> bool:
        """Whether something may be lost with it."""
        return self.cause is Cause.NO_COUNTERPART

    @property
    def group(self) -> "Reason":
        """What it has in common with those that are one entry of a summary.

        Which tensor holds the same makes no other reason.
        """
        if self.cause is Cause.SAME_CONTENT:
            return Reason(cause=self.cause, side=self.side)
        return self

    @property
    def text(self) -> str:
        """One sentence for maps and reports."""
        other = other_side(self.side)
        match self.cause:
            case Cause.NO_COUNTERPART:
                return f"no counterpart was found in the {other}"
            case Cause.NOT_RECORDED:
                return f"the {other} recorded no {self.detail} at all"
            case Cause.KEPT_ELSEWHERE:
                return f"a number that the {other}'s optimizer keeps elsewhere"
            case Cause.CONSTANT:
                return f"no step changes it, and the {other} does not keep it"
            case Cause.COUNTER:
                return f"a counter of the module; the {other} keeps none"
            case Cause.SAME_CONTENT if self.detail:
                return f"{SAME_CONTENT} {self.detail} holds"
            case Cause.SAME_CONTENT:
                return f"{SAME_CONTENT} compared tensors hold"
            case Cause.KNOWN:
                return self.detail
