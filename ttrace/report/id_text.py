"""Tensor ids in a table: broken between their parts, never within a word."""

import re
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class IdText:
    """A tensor id, for a cell that may be too narrow for it.

    Attributes:
        text: The text form of the id.
    """

    text: str

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        lines = break_id(self.text, options.max_width)
        yield Text("\n".join(lines), overflow="fold")

    def __rich_measure__(
        self, console: Console, options: ConsoleOptions
    ) -> Measurement:
        longest = max(map(len, _parts(self.text)), default=0)
        return Measurement(longest, len(self.text)).with_maximum(options.max_width)


def break_id(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, each ending behind a ``/`` or a ``.``.

    A part that is longer than that is a line of its own.
    """
    lines = [""]
    for part in _parts(text):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _parts(text: str) -> list[str]:
    return re.findall(r"[^/.]*[/.]|[^/.]+", text)
