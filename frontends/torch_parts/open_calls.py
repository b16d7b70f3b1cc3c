"""Which call of a module runs now, and which one made a node of the gradient graph."""

import bisect
from dataclasses import dataclass

from ttrace.frontends.torch_parts.calls import ModuleCall


@dataclass(slots=True, kw_only=True, eq=False)
class _Made:
    """The nodes that a call made: those of one stretch of numbers.

    Attributes:
        call: Which one.
        outer: Place of the call around it; -1 for none.
        until: Its nodes have lower numbers; None while it runs.
    """

    call: ModuleCall
    outer: int
    until: int | None = None


class OpenCalls:
    """The calls of modules in a step, in the order in which they began.

    Calls that were interrupted, and never ended, are dropped with the one around them.
    Cost: one entry for each call, until the step ends.
    """

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Forgets all calls: a step begins."""
        self._made: list[_Made] = []
        self._since: list[int] = []
        self._open: list[int] = []

    def enter(self, call: ModuleCall, since: int) -> None:
        """A call begins.

        Args:
            call: Which one.
            since: Sequence number of the first node that it can make.
        """
        outer = self._open[-1] if self._open else -1
        self._open.append(len(self._made))
        self._made.append(_Made(call=call, outer=outer))
        self._since.append(since)

    def leave(self, call: ModuleCall, until: int) -> None:
        """A call ends.

        Args:
            call: Which one.
            until: Sequence number of the first node that it can no longer make.
        """
        for place in range(len(self._open) - 1, -1, -1):
            if self._made[self._open[place]].call is call:
                for index in self._open[place:]:
                    self._made[index].until = until
                del self._open[place:]
                return

    def innermost(self, path: str | None = None) -> ModuleCall | None:
        """The call that began last and runs.

        Args:
            path: Of a module; None for any.
        """
        for index in reversed(self._open):
            call = self._made[index].call
            if path is None or call.path == path:
                return call
        return None

    def maker_of(self, number: int) -> ModuleCall | None:
        """The innermost call that made a node of the graph; None for none of them.

        Args:
            number: Sequence number of the node.
        """
        place = bisect.bisect_right(self._since, number) - 1
        while place >= 0:
            made = self._made[place]
            if made.until is None or number < made.until:
                return made.call
            place = made.outer
        return None
