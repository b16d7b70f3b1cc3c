"""What gives the values of another run for those of a step's programs."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ttrace.frontends.jax_parts.harvest.captured import Event
from ttrace.frontends.jax_parts.harvest.gates import Pair
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind

HAS_EFFECTS = (
    "its program has effects outside of itself, such as those of io_callback, and "
    "would have them twice"
)
"""Why nothing is put into a program, which is to run once without that before."""


class Overwrites(Protocol):
    """Gives values for one step; what a step emits tells which ones are wanted."""

    def is_gated(self, site: TapSite, kind: Kind) -> bool:
        """Whether there may be a value for what a site has."""
        ...

    def pairs(
        self, events: Sequence[Event], values: Sequence[Any], gates: Sequence[int]
    ) -> list[Pair]:
        """What comes in at the gates of a program.

        Args:
            events: Of the step so far, those of the program last, as it runs without
                other values.
            values: What they have emitted.
            gates: Positions of the events of the gates.

        Returns:
            For each gate, a value like the one that its event emitted, and a flag for
            every iteration of it.
        """
        ...

    def leave(self, events: Iterable[int], reason: str) -> None:
        """Notes that nothing comes in at some events.

        Args:
            events: Their positions.
            reason: A sentence for the report.
        """
        ...
